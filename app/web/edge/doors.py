"""The authenticator in force, for connections that outlive a reload."""

from __future__ import annotations

from app.web.edge.auth import Authenticator


class Doors:
    """Holds the authenticator in force."""

    def __init__(self, authenticator: Authenticator) -> None:
        self.authenticator = authenticator
        """Replaced on reload."""

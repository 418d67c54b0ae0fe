"""Who sends request heads that come again, where that changes only with the settings."""

from __future__ import annotations

from collections.abc import Mapping

from app.core.rights.policy import Identity
from app.web.edge.auth import Authenticator, for_connection
from app.web.edge.caller import Callers, with_bearer
from app.web.edge.request import TICKET, are_short

_MOST_KNOWN = 1000
"""The most identities that are remembered by their heads."""


class KnownCallers:
    """Identifies, at once, the callers of what lasts. They share an identity where they show nothing but their head."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self._known: dict[tuple[Callers, bool], Identity] = {}

    def identify(
        self, callers: Callers, query: Mapping[str, str], bearer: bytes | None, client: str | None
    ) -> Identity | None:
        """Return the identity of a caller as its connection keeps it; None if that has to wait.

        ``bearer`` replaces the credential of the head, unless it is None. Raises as
        :meth:`~app.web.edge.auth.Authenticator.identify` does.
        """
        caller, kept = callers.at(client)
        is_bare = False
        if bearer is not None:
            caller = with_bearer(caller, bearer.decode("ascii"))
        elif caller.bearer is None:
            ticket = query.get(TICKET)
            if ticket is not None:
                caller = caller._replace(ticket=ticket)
            else:
                is_bare = True
                known = self._known.get((callers, caller.is_near))
                if known is not None:
                    return known
        identity = self._authenticator.authenticate(caller, kept)
        if identity is None or identity.token is not None:  # a token in a cookie expires
            return identity
        identity = for_connection(identity, caller)
        if is_bare and identity.fault is None and are_short(caller.headers):
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[callers, caller.is_near] = identity
        return identity

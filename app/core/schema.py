"""The port of a channel's schema: what judges whether a message fits."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol


class Misfit(NamedTuple):
    """What of a message does not fit its channel's schema."""

    pointer: str
    """JSON pointer (RFC 6901) of the value that does not fit; empty for the whole message."""
    reason: str
    """Why it does not fit, to go on after a colon."""


class Schema(Protocol):
    """A JSON Schema that messages are checked against. Equal schemas accept the same messages."""

    @property
    def path(self) -> str:
        """The path of its file, as channels.yaml writes it."""

    @property
    def digest(self) -> str:
        """A short hash of the file's content."""

    @property
    def document(self) -> dict[str, Any] | bool:
        """The schema as plain data, for the documents that describe the server. Nobody changes it."""

    def misfit(self, data: bytes) -> Misfit | None:
        """Return what of a message does not fit; None if all of it does. May be called in any thread.

        ``data`` is JSON that :mod:`app.core.data` has checked.
        """

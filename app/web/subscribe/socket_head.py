"""The parsed request head of a handshake, but for its query. It depends on the head's bytes alone: it is remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.core.errors import AbideError, MalformedError, bare
from app.core.resume import Start
from app.web.edge.caller import NO_CALLERS, Callers
from app.web.edge.request import by_name
from app.web.subscribe import heartbeat
from app.web.subscribe.v1 import SUBPROTOCOL

MANY, ECHO = "/ws", "/echo"
"""The path of sockets for any number of channels, and of those that answer what they are sent."""

_HEAD = Start()


@dataclass(frozen=True, slots=True, eq=False)
class SocketHead:
    """A parsed head. It does not say who the caller is, because keys are revoked and tokens expire."""

    path: str
    """Without the root path."""
    shown: str
    """With it, for messages."""
    name: str | None
    """The channel's name; None on ``/ws``."""
    speaks_v1: bool
    unreadable: AbideError | None = None
    """Why the headers cannot be read; the callers are then nobody."""
    callers: Callers = NO_CALLERS
    """What the head shows of its caller, but for a ticket."""

    @classmethod
    def of(cls, path: str, shown: str, headers: Sequence[tuple[bytes, bytes]], protocols: Sequence[str]) -> SocketHead:
        """Parse the head of a handshake; never raises :class:`~app.core.errors.AbideError`."""
        name = None if path == MANY else path[1:]
        speaks_v1 = SUBPROTOCOL in protocols
        try:
            named = by_name(headers)
        except AbideError as error:
            return cls(path, shown, name, speaks_v1, bare(error))
        return cls(path, shown, name, speaks_v1, None, Callers.of(named, protocols))

    def read(self, query: Mapping[str, str]) -> tuple[Start, bool]:
        """Return where to begin, and whether heartbeats are wanted. Raises :class:`MalformedError`."""
        if self.name is None and not self.speaks_v1:
            msg = f"{self.shown} speaks only {SUBPROTOCOL}: ask for it in Sec-WebSocket-Protocol"
            raise MalformedError(msg)
        if not query:
            return _HEAD, False
        wants_heartbeat = heartbeat.is_wanted(query)
        if wants_heartbeat and not self.speaks_v1:
            msg = f"a plain socket carries nothing but messages: 'heartbeat' needs {SUBPROTOCOL}"
            raise MalformedError(msg)
        start = Start.parse(query.get("since"), query.get("last"))
        if self.name is None and not start.is_head:
            msg = "a socket for several channels takes no 'since' or 'last': send them with each subscribe"
            raise MalformedError(msg)
        return start, wants_heartbeat

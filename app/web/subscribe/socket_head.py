"""The parsed request head of a handshake, but for its query. It depends on the head's bytes alone: it is remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.core.errors import AbideError, MalformedError, bare
from app.core.resume import Start
from app.core.rights.policy import NOBODY, Caller
from app.web.edge.caller import see
from app.web.edge.loopback import is_loopback
from app.web.edge.request import by_name
from app.web.subscribe import heartbeat
from app.web.subscribe.v1 import SUBPROTOCOL

MANY, ECHO = "/ws", "/echo"
"""The path of sockets for any number of channels, and of those that answer what they are sent."""

_HERE = "127.0.0.1"
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
    caller: Caller = NOBODY
    """The caller's credentials, but for a ticket."""
    caller_here: Caller = NOBODY
    """The same for a request that comes from this machine."""

    @classmethod
    def of(cls, path: str, shown: str, headers: Sequence[tuple[bytes, bytes]], protocols: Sequence[str]) -> SocketHead:
        """Parse the head of a handshake; never raises :class:`~app.core.errors.AbideError`."""
        name = None if path == MANY else path[1:]
        speaks_v1 = SUBPROTOCOL in protocols
        try:
            named = by_name(headers)
        except AbideError as error:
            return cls(path, shown, name, speaks_v1, bare(error))
        here = see(named, _HERE, protocols=protocols)._replace(client=None)
        return cls(path, shown, name, speaks_v1, None, here._replace(is_near=False) if here.is_near else here, here)

    def caller_from(self, peer: str | None) -> Caller:
        """Return the caller's credentials for a request from this address; None if it is unknown.

        They do not name the address itself, so that callers from many of them share one object.
        """
        return self.caller_here if self.caller_here.is_near and peer is not None and is_loopback(peer) else self.caller

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

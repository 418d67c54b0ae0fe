"""How the server hands a connection over to the application, and what the two tell each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self


class Writer(Protocol):
    """One connection that the server has handed over: bytes go in, nothing waits.

    Returned by the ASGI extension ``abide.fanout`` (:data:`FANOUT`). Valid until ``Peer.closed``; afterwards
    every call is ignored.
    """

    def write(self, data: bytes) -> None:
        """Send bytes, which are whole frames of the connection's wire format; many writers may share them."""

    @classmethod
    def write_all(cls, writers: Sequence[Self], data: bytes) -> None:
        """Send the same bytes to writers of this class, which may know a faster way than one by one."""
        for writer in writers:
            writer.write(data)

    def is_full(self) -> bool:
        """Whether the buffer is over its limit, so that nothing more should be written until ``Peer.writable``."""

    def close(self, code: int, reason: str) -> None:
        """Send a close with ``code`` and end the connection; ``Peer.closed`` follows."""

    def pause(self) -> None:
        """Read nothing more from the peer until :meth:`resume`: what it sends waits in its socket."""

    def resume(self) -> None:
        """Read on."""


class Peer(Protocol):
    """Learns what happens on a connection that was handed over. None of these methods may block."""

    def received(self, data: bytes, *, text: bool) -> None:
        """Take one message of the peer; text is valid UTF-8."""

    def max_size(self) -> int:
        """Return the size of the largest message that is accepted now, in bytes; a larger one closes with 1009."""

    def full(self) -> None:
        """Learn that the buffer is over its limit: the peer reads too slowly."""

    def writable(self) -> None:
        """Learn that the buffer has room again; follows each :meth:`full`."""

    def closed(self, code: int) -> None:
        """Learn that the connection has ended, with this close code. The last call."""


class Heartbeat(NamedTuple):
    """What a connection sends regularly, so that neither proxies nor clients take it for dead."""

    data: bytes
    """Whole frames of the wire format, shared by all connections."""
    seconds: float
    """The longest time between two."""


FANOUT = "abide.fanout"
"""The ASGI extension by which a connection leaves the server's tasks: ``scope["extensions"]["abide.fanout"]``."""


class Handover(Protocol):
    """The extension in the scope of a WebSocket.

    Called once, after ``websocket.accept`` was sent: from then on the connection is the peer's,
    and the ASGI application returns. The server pings every client anyway. A heartbeat goes out with
    each ping, for clients that cannot see pings.
    """

    def __call__(self, peer: Peer, heartbeat: Heartbeat | None = None) -> Writer:
        """Hand the connection over to ``peer``, which writes frames."""


class ResponseHandover(Protocol):
    """The extension in the scope of a GET over HTTP/1.1, which has chunks.

    Called once, after ``http.response.start`` was sent without a Content-Length: from then on the
    response is the peer's, and the ASGI application returns. :meth:`Writer.close` sends the last
    chunk and ends the connection. The client does not learn the code, and ``Peer.received`` is never
    called.
    """

    def __call__(self, peer: Peer, heartbeat: Heartbeat) -> Writer:
        """Hand the response over to ``peer``, which writes chunks (RFC 9112 §7.1)."""

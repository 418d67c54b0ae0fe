"""A response that lasts: chunks of HTTP/1.1 over uvicorn's transport, written by its peer."""

from __future__ import annotations

import asyncio
import socket

from app.core.ports import Heartbeat, Peer
from app.server.lasting.link import Link, LinkState
from app.server.lasting.link_context import LinkContext
from app.server.sockets import abort, set_option
from app.wire.close_codes import CloseCode
from app.wire.http1 import LAST_CHUNK

_USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux has it


class StreamProtocol(Link):
    """A response from its handover to its end, and the :class:`~app.core.ports.Writer` of its peer.

    An idle one takes 1.8 KiB of the process's memory, for the same things as an idle WebSocket (CPython 3.11,
    uvloop 0.23, 64 bits, mean of 19,000); this object is 112 bytes of it. Request, headers, task, exchange and HTTP
    protocol are freed when the application returns; there is no timer. Tests check that no reference cycle keeps them.

    What the reader sends is dropped; when it closes its half, the connection ends. A reader that vanishes, or that
    stops reading, is noticed by the kernel: it gives the connection up when bytes, if only those of the heartbeat, have
    waited too long.
    """

    __slots__ = ("_beat", "_period")

    def __init__(self, transport: asyncio.Transport, context: LinkContext, heartbeat: Heartbeat) -> None:
        super().__init__(transport, context, LinkState.OPEN)
        self._beat = heartbeat.data
        self._period = context.sweep.at_most(heartbeat.seconds)  # ticks between two

    def start(self, peer: Peer, head: bytes, *, is_full: bool) -> None:
        """Take the transport over, and begin the response; end at once if the transport is closing."""
        if self._transport.is_closing():
            self._peer, self._state = peer, LinkState.CLOSED
            self._tell(CloseCode.ABNORMAL)
            abort(self._transport)  # nothing else would wait for the buffered bytes to be read
            return
        self._take_over(peer)
        self._full = is_full
        self._limit_buffers()
        if _USER_TIMEOUT is not None and self._context.silence:
            set_option(self._transport, socket.IPPROTO_TCP, _USER_TIMEOUT, int(self._context.silence * 1000))
        self._transport.write(head)  # leaves together with what the peer writes now
        if self._context.is_over:
            self._context.loop.call_soon(self.shutdown)

    # The Writer.

    def close(self, code: int, reason: str) -> None:  # noqa: ARG002 — a response has no place for a reason
        """Send the last chunk and end the connection; ``Peer.closed`` follows in a later turn of the event loop."""
        if self._state is LinkState.OPEN:
            self.write(LAST_CHUNK)
            self._end(code)

    def pause(self) -> None:
        """Do nothing: what the reader sends is dropped anyway."""

    def resume(self) -> None:
        """Do nothing."""

    # Called by uvicorn.

    def shutdown(self) -> None:
        """Close because the server stops."""
        self.close(CloseCode.RESTARTING, "")

    # Called by the sweep.

    def look(self, tick: int) -> None:
        """Send the heartbeat when it is time, and end what lasts too long."""
        age, context, state = tick - self._born, self._context, self._state
        if state is LinkState.OPEN:
            if context.limits.is_due(age):
                self.close(CloseCode.RESTARTING, "")
            elif self._is_stalled(tick):
                context.meter.limited("answer_time")
                self._abort()
            elif age % self._period == 0 and not self._full:
                self.write(self._beat)
        elif state is LinkState.ENDING and tick - self._heard >= context.limits.closing_late:
            self._abort()

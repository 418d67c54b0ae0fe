"""A link: a connection that was handed over, and that no task serves. Its bytes, their flow, and its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextvars import Context
from enum import Enum, auto
from functools import partial
from operator import methodcaller
from typing import ClassVar, Self

from app.core.ports import Peer
from app.server.lasting.link_context import LinkContext
from app.server.lasting.sweep import Swept
from app.server.sockets import abort, borrow, closed, limit_send_buffer
from app.wire.close_codes import CloseCode

_logger = logging.getLogger("uvicorn.error")

_INDIRECT = closed()
_FULL, _WRITABLE = methodcaller("full"), methodcaller("writable")


class LinkState(Enum):
    """What may still happen on a link; a response that lasts has only the states marked so."""

    CONNECTING = auto()  # the application has not answered the handshake
    OPEN = auto()  # (also a response)
    CLOSING = auto()  # our close is sent; frames are read and dropped until the peer's comes
    DEAF = auto()  # the same after the peer broke the protocol; bytes are dropped unread
    ENDING = auto()  # closed when what is buffered has left (also a response)
    CLOSED = auto()  # (also a response)


class Link(asyncio.Protocol, Swept):
    """A WebSocket, or a response that lasts: most of the :class:`~app.core.ports.Writer` of its peer.

    Invariant: while ``_socket`` is the transport's, nothing is buffered above the kernel, so that what is written to
    it goes out in order.
    """

    __slots__ = (
        "_born",
        "_context",
        "_full",
        "_heard",
        "_left",
        "_moved",
        "_peer",
        "_queued",
        "_socket",
        "_state",
        "_transport",
    )  # fmt: skip
    high_water: ClassVar[int] = 64 * 1024
    """Bytes in the transport's buffer above which the connection is full."""

    low_water: ClassVar[int] = 16 * 1024
    """Bytes in the transport's buffer at which it has room again."""

    def __init__(self, transport: asyncio.Transport, context: LinkContext, state: LinkState) -> None:
        self._transport = transport
        self._context = context
        self._socket = _INDIRECT  # the transport's, while writes may bypass it
        self._peer: Peer | None = None  # None once it has been told that the connection is closed
        self._state = state
        self._born = context.sweep.tick
        self._heard = self._born  # tick of the last byte from the peer; else of the state's beginning
        self._full = False
        self._queued = 0  # bytes given to the transport since it was found empty
        self._left = 0  # how many of them had left the transport at the last look
        self._moved = self._born  # tick of the last look that found it empty, or that more had left

    # The Writer.

    def write(self, data: bytes) -> None:
        """Send bytes that are whole frames; ``Peer.full`` may be called meanwhile.

        The bytes go to the kernel first, and the transport keeps what the kernel does not take: a write through the
        transport costs more than all the rest of a delivery.
        """
        if self._socket is _INDIRECT:
            self._write_indirectly(data)
            return
        try:
            sent = self._socket.send(data)
        except OSError:  # no room, or the connection is lost: the transport finds out which
            sent = 0
        self._keep(data, sent)

    @classmethod
    def write_all(cls, writers: Sequence[Self], data: bytes) -> None:
        """Send the same bytes to many links: :meth:`write` in a loop, without a call of Python for each link."""
        size = len(data)
        for link in writers:
            try:
                sent = link._socket.send(data)  # noqa: SLF001 — its own class
            except OSError:
                link.write(data)
            else:
                if sent != size:
                    link._keep(data, sent)  # noqa: SLF001 — as above

    def _keep(self, data: bytes, sent: int) -> None:
        """Leave to the transport what the kernel did not take."""
        if sent != len(data):
            self._socket = _INDIRECT
            self._queued += len(data) - sent
            self._transport.write(memoryview(data)[sent:] if sent else data)

    def is_full(self) -> bool:
        """Whether more is buffered than :meth:`write` should add to."""
        return self._full

    @property
    def buffered(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return 0 if self._socket is not _INDIRECT else self._transport.get_write_buffer_size()

    def close(self, code: int, reason: str) -> None:
        """End the connection, and tell the peer why if its protocol can."""
        raise NotImplementedError

    # Called by uvicorn.

    def cut(self) -> None:
        """End at once: the server stops, and the peer has not gone in time."""
        self._abort()

    # Called by the transport.

    def pause_writing(self) -> None:
        """Note that the buffer is over its limit."""
        self._full = True
        self._call(_FULL)

    def resume_writing(self) -> None:
        """Note that the buffer has room again."""
        self._full = False
        self._call(_WRITABLE)

    def _call(self, method: Callable[[Peer], object]) -> None:
        """Call a method of the peer if the connection is open."""
        if self._peer is not None and self._state is LinkState.OPEN:
            try:
                method(self._peer)
            except Exception as error:  # noqa: BLE001 — any bug must end the connection, not leave it half alive
                self._crash(error)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 — asyncio's signature
        """Note that the connection is lost."""
        self._context.sockets -= 1
        self._context.connections.discard(self)
        self._state = LinkState.CLOSED
        self._socket = _INDIRECT
        self._tell(CloseCode.ABNORMAL)

    # For subclasses.

    def _take_over(self, peer: Peer) -> None:
        """Become the transport's protocol, and one of the server's connections."""
        self._peer = peer
        self._transport.set_protocol(self)
        self._context.connections.add(self)
        self._context.sweep.start()

    def _limit_buffers(self) -> None:
        self._transport.set_write_buffer_limits(self.high_water, self.low_water)
        if not self._context.buffers_are_bound:
            limit_send_buffer(self._transport)

    def _write_indirectly(self, data: bytes) -> None:
        if self._state is not LinkState.OPEN:
            return
        transport = self._transport
        if transport.get_write_buffer_size() == 0 and transport.get_extra_info("sslcontext") is None:
            # Safe: the transport closes the socket only after it has called connection_lost.
            self._socket = borrow(transport.get_extra_info("socket"))
            self.write(data)
        else:
            self._queued += len(data)
            transport.write(data)

    def _is_stalled(self, tick: int) -> bool:
        """Return whether the buffered bytes have not moved for as long as a peer may be silent."""
        waits = self.buffered
        left = self._queued - waits
        if not waits:
            self._queued, left = 0, 0
        elif left == self._left:
            return tick - self._moved >= self._context.limits.drop_at
        self._left, self._moved = left, tick
        return False

    def _crash(self, error: Exception) -> None:
        """End the connection because of a bug in its peer."""
        _logger.error("connection_failed", exc_info=error)
        self._context.meter.failed("connection")
        if self._state is LinkState.OPEN:
            self.close(CloseCode.INTERNAL_ERROR, "the server failed; its log says why")
        else:
            self._abort()

    def _end(self, code: int) -> None:
        """Close the connection when what is buffered has left."""
        self._enter(LinkState.ENDING)
        self._tell(code)
        self._transport.close()

    def _enter(self, state: LinkState) -> None:
        self._state = state
        self._socket = _INDIRECT
        self._heard = self._context.sweep.tick

    def _abort(self) -> None:
        abort(self._transport)

    def _tell(self, code: int) -> None:
        # In a later turn: a peer is never told of the end inside a call that it makes, and thousands of connections
        # that end at once do not take a whole turn. In a context of its own: what the peer logs has nothing to do with
        # the request that this turn serves, or that started the sweep.
        self._context.backlog.join(partial(Context().run, self._told, code))

    def _told(self, code: int) -> None:
        peer, self._peer = self._peer, None
        if peer is None:
            return
        try:
            peer.closed(code)
        except Exception:
            _logger.exception("connection_failed")
            self._context.meter.failed("connection")

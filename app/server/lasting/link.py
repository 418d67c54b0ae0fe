"""What every connection has in common that the server's tasks leave: its bytes, their flow, and its end."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from contextvars import Context
from enum import Enum, auto
from functools import partial
from itertools import repeat
from operator import methodcaller
from typing import ClassVar, Self

from app.core.ports import Peer
from app.server.lasting.keepalive import Watched
from app.server.lasting.shared import Shared
from app.server.sockets import abort, limit_send_buffer
from app.wire.frames import LINK_DIED

_logger = logging.getLogger("uvicorn.error")

INTERNAL_ERROR = 1011
"""The close code of a connection that a bug has ended."""

GOING_DOWN = 1012
"""The close code at shutdown and of old age: reconnect."""

_INDIRECT = -1
_FULL, _WRITABLE = methodcaller("full"), methodcaller("writable")


class State(Enum):
    """Where a connection stands; a response that lasts knows only those marked so."""

    CONNECTING = auto()  # the application has not answered the handshake
    OPEN = auto()  # (a response, too)
    CLOSING = auto()  # our close is sent, the peer's is awaited: frames are read and dropped
    DEAF = auto()  # the same after the peer broke the protocol: bytes are dropped
    ENDING = auto()  # nothing is awaited but that what is buffered leaves (a response, too)
    CLOSED = auto()  # (a response, too)


class Link(asyncio.Protocol, Watched):
    """A WebSocket, or a response that lasts: most of the :class:`~app.core.ports.Writer` of its peer.

    Invariant: while ``_descriptor`` is one, nothing is buffered above the kernel, so that what is
    written to it goes out in order.
    """

    __slots__ = (
        "_born", "_descriptor", "_full", "_heard", "_left", "_moved", "_peer", "_queued", "_shared", "_state",
        "_transport",
    )  # fmt: skip
    high_water: ClassVar[int] = 64 * 1024
    """Bytes in the transport's buffer above which the connection is full."""

    low_water: ClassVar[int] = 16 * 1024
    """Bytes in the transport's buffer at which it has room again."""

    def __init__(self, transport: asyncio.Transport, shared: Shared, state: State) -> None:
        self._transport = transport
        self._shared = shared
        self._descriptor = _INDIRECT  # the socket's, while writes may pass the transport by
        self._peer: Peer | None = None  # None once it has been told that the connection is closed
        self._state = state
        self._born = shared.keepalive.tick
        self._heard = self._born  # tick of the last byte from the peer; else of the state's beginning
        self._full = False
        self._queued = 0  # bytes given to the transport since it was found empty
        self._left = 0  # how many of them had left it at the last look
        self._moved = self._born  # tick of the last look that found it empty, or more gone

    # The Writer.

    def write(self, data: bytes) -> None:
        """Send bytes that are whole frames; ``Peer.full`` may be called meanwhile.

        The kernel is asked first, and the transport keeps what it does not take: the way round through
        the transport costs more than everything else that is done for a delivery.
        """
        descriptor = self._descriptor
        if descriptor == _INDIRECT:
            self._write_indirectly(data)
            return
        try:
            sent = os.write(descriptor, data)
        except OSError:  # no room, or the link is gone: the transport will find out which
            sent = 0
        self._keep(data, sent)

    @classmethod
    def write_all(cls, writers: Sequence[Self], data: bytes) -> None:
        """Send the same bytes to many links.

        The loop over those that the kernel takes at once is C's, and each system call all that is left
        of a delivery. A call that fails ends the loop at its link, which then goes its own way.
        """
        size = len(data)
        calls = map(os.write, [link._descriptor for link in writers], repeat(data))  # noqa: SLF001 — its own class
        sent: list[int] = []  # bytes, link by link
        while len(sent) < len(writers):
            try:
                sent.extend(calls)  # up to the one that fails
            except OSError:
                writers[len(sent)].write(data)
                sent.append(size)
        if sent.count(size) < len(sent):
            for link, count in zip(writers, sent, strict=True):
                link._keep(data, count)  # noqa: SLF001 — as above

    def _keep(self, data: bytes, sent: int) -> None:
        """Leave what the kernel did not take to the transport."""
        if sent != len(data):
            self._descriptor = _INDIRECT
            self._queued += len(data) - sent
            self._transport.write(memoryview(data)[sent:] if sent else data)

    def is_full(self) -> bool:
        """Whether more is buffered than :meth:`write` should add to."""
        return self._full

    def close(self, code: int, reason: str) -> None:
        """End the connection, and say why where there is a place for it."""
        raise NotImplementedError

    # Called by uvicorn.

    def cut(self) -> None:
        """End at once because the server stops, and the peer has not gone in time."""
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
        """Tell the peer of an open connection something."""
        if self._peer is not None and self._state is State.OPEN:
            try:
                method(self._peer)
            except Exception as error:  # noqa: BLE001 — whatever it is, the connection must not go on half alive
                self._crash(error)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 — asyncio's signature
        """Note that the link is gone."""
        self._shared.connections.discard(self)
        self._state = State.CLOSED
        self._descriptor = _INDIRECT
        self._tell(LINK_DIED)

    # For the kinds of it.

    def _take_over(self, peer: Peer) -> None:
        """Become the transport's protocol, and one of the server's connections."""
        self._peer = peer
        self._transport.set_protocol(self)
        self._shared.connections.add(self)
        self._shared.keepalive.start()

    def _limit_buffers(self) -> None:
        self._transport.set_write_buffer_limits(self.high_water, self.low_water)
        limit_send_buffer(self._transport)

    def _write_indirectly(self, data: bytes) -> None:
        if self._state is not State.OPEN:
            return
        transport = self._transport
        if transport.get_write_buffer_size() == 0 and transport.get_extra_info("sslcontext") is None:
            # The transport closes the socket only after it has told us that the connection is lost.
            self._descriptor = transport.get_extra_info("socket").fileno()
            self.write(data)
        else:
            self._queued += len(data)
            transport.write(data)

    def _is_stalled(self, tick: int) -> bool:
        """Whether what waits for the peer has not moved for as long as a silent peer is waited for."""
        waits = self._transport.get_write_buffer_size() if self._descriptor == _INDIRECT else 0
        left = self._queued - waits
        if not waits:
            self._queued, left = 0, 0
        elif left == self._left:
            return tick - self._moved >= self._shared.drop_at
        self._left, self._moved = left, tick
        return False

    def _crash(self, error: Exception) -> None:
        """End the connection because its peer has failed."""
        _logger.error("connection_failed", exc_info=error)
        self._shared.meter.failed("connection")
        if self._state is State.OPEN:
            self.close(INTERNAL_ERROR, "the server failed; its log says why")
        else:
            self._abort()

    def _end(self, code: int) -> None:
        """Close the link when what is buffered has left."""
        self._enter(State.ENDING)
        self._tell(code)
        self._transport.close()

    def _enter(self, state: State) -> None:
        self._state = state
        self._descriptor = _INDIRECT
        self._heard = self._shared.keepalive.tick

    def _abort(self) -> None:
        abort(self._transport)

    def _tell(self, code: int) -> None:
        # In a later turn, so that a peer is never told of the end inside a call that it makes, and thousands that end
        # at once do not take one turn for themselves; and in a context of its own: what the peer logs is not about the
        # request that this turn serves, or the sweep began in.
        self._shared.backlog.join(partial(Context().run, self._told, code))

    def _told(self, code: int) -> None:
        peer, self._peer = self._peer, None
        if peer is None:
            return
        try:
            peer.closed(code)
        except Exception:
            _logger.exception("connection_failed")
            self._shared.meter.failed("connection")

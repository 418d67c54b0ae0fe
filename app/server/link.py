"""What every connection has in common that the server's tasks leave: its bytes, their flow, and its end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextvars import Context
from enum import Enum, auto
from itertools import repeat
from typing import ClassVar, cast

from app.core.ports import Peer, Writer
from app.server.keepalive import Watched
from app.server.rfc6455 import LINK_DIED
from app.server.shared import Shared
from app.server.sockets import abort, limit_send_buffer

GOING_DOWN = 1012
"""The close code at shutdown and of old age: reconnect."""

_INDIRECT = -1


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

    __slots__ = ("_born", "_descriptor", "_full", "_heard", "_peer", "_shared", "_state", "_transport")

    high_water: ClassVar[int] = 128 * 1024
    """Bytes in the transport's buffer above which the connection is full."""

    low_water: ClassVar[int] = 32 * 1024
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

    @staticmethod
    def write_all(writers: Sequence[Writer], data: bytes) -> None:
        """Send the same bytes to many links.

        The loop over those that the kernel takes at once is C's, and each system call all that is left
        of a delivery. A call that fails ends the loop at its link, which then goes its own way.
        """
        links = cast("Sequence[Link]", writers)
        size = len(data)
        calls = map(os.write, [link._descriptor for link in links], repeat(data))  # noqa: SLF001 — its own class
        sent: list[int] = []  # bytes, link by link
        while len(sent) < len(links):
            try:
                sent.extend(calls)  # up to the one that fails
            except OSError:
                links[len(sent)].write(data)
                sent.append(size)
        if sent.count(size) < len(sent):
            for link, count in zip(links, sent, strict=True):
                link._keep(data, count)  # noqa: SLF001 — as above

    def _keep(self, data: bytes, sent: int) -> None:
        """Leave what the kernel did not take to the transport."""
        if sent != len(data):
            self._descriptor = _INDIRECT
            self._transport.write(memoryview(data)[sent:])

    def is_full(self) -> bool:
        """Whether more is buffered than :meth:`write` should add to."""
        return self._full

    # Called by uvicorn.

    def cut(self) -> None:
        """End at once because the server stops, and the peer has not gone in time."""
        self._abort()

    # Called by the transport.

    def pause_writing(self) -> None:
        """Note that the buffer is over its limit."""
        self._full = True
        if self._peer is not None and self._state is State.OPEN:
            self._peer.full()

    def resume_writing(self) -> None:
        """Note that the buffer has room again."""
        self._full = False
        if self._peer is not None and self._state is State.OPEN:
            self._peer.drained()

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
            transport.write(data)

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
        # In a later turn, so that a peer is never told of the end inside a call that it makes; and in a context
        # of its own: what the peer logs is not about the request that this turn serves, or the sweep began in.
        self._shared.loop.call_soon(self._told, code, context=Context())

    def _told(self, code: int) -> None:
        peer, self._peer = self._peer, None
        if peer is not None:
            peer.closed(code)

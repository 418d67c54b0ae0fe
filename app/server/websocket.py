"""One WebSocket connection: RFC 6455 over uvicorn's transport, for whoever is its peer."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from enum import Enum, auto
from typing import ClassVar

from uvicorn.config import Config
from uvicorn.server import ServerState

from app.core.ports import Peer
from app.server import handshake, rfc6455
from app.server.keepalive import Watched
from app.server.shared import Shared

GOING_DOWN = 1012
"""The close code at shutdown and of old age: reconnect."""

_PING = rfc6455.frame(rfc6455.PING, b"")
_INDIRECT = -1
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s


class _State(Enum):
    CONNECTING = auto()  # the application has not answered the handshake
    OPEN = auto()
    CLOSING = auto()  # our close is sent, the peer's is awaited: frames are read and dropped
    DEAF = auto()  # the same after the peer broke the protocol: bytes are dropped
    ENDING = auto()  # nothing is awaited but that what is buffered leaves
    CLOSED = auto()


class WebSocketProtocol(asyncio.Protocol, Watched):
    """A WebSocket from its handshake to its end, and the :class:`~app.core.ports.Writer` of its peer.

    An idle connection that was handed over takes 1.8 KiB of the process's memory (CPython 3.11,
    uvloop 0.23, 64 bits, mean of 19,000). It holds this object (120 bytes), its socket's number
    (32), uvloop's transport (680) with libuv's handle (248) and its entry in the loop's table, what
    the transport keeps of the socket's addresses, one bound method, and an entry in uvicorn's set of
    connections. Scope, headers, task and HTTP protocol went when the application returned; there is
    no timer, and a reader only in the middle of a message. Tests hold that no cycle keeps any of
    them. While the application receives and sends by itself, its task, scope and frames are
    5.5 KiB more.

    Invariant: ``_reader`` is None unless the connection is in the middle of a frame or message, or
    reading is paused. While ``_descriptor`` is one, nothing is buffered above the kernel, so that
    what is written to it goes out in order.
    """

    __slots__ = (
        "_born", "_descriptor", "_full", "_heard", "_paused", "_peer", "_pulling", "_reader", "_shared", "_state",
        "_transport",
    )  # fmt: skip

    handshake_timeout: ClassVar[float] = 10.0
    """Seconds that the application may take to answer the handshake; the sweep ends it within half as many more."""

    closing_timeout: ClassVar[float] = 10.0
    """Seconds from a close until the link may be cut, whatever the peer does; it is within half as many more."""

    high_water: ClassVar[int] = 128 * 1024
    """Bytes in the transport's buffer above which the connection is full."""

    low_water: ClassVar[int] = 32 * 1024
    """Bytes in the transport's buffer at which it has room again."""

    send_buffer: ClassVar[int] = 64 * 1024
    """Bytes asked for as the socket's send buffer; Linux takes twice that.

    Left alone, the kernel would grow it to megabytes for each peer that stalls, and hide from us
    that it does: the transport's own buffer stays empty until then.
    """

    early_size: ClassVar[int] = 64 * 1024
    """Bytes taken from a peer that sends frames before its handshake is answered."""

    def __init__(self, transport: asyncio.Transport, config: Config, server_state: ServerState) -> None:
        self._transport = transport
        self._shared = shared = self.share(config, server_state)
        self._descriptor = _INDIRECT  # the socket's, while writes may pass the transport by
        self._peer: Peer | None = None  # None once it has been told that the connection is closed
        self._reader: rfc6455.Reader | None = None
        self._state = _State.CONNECTING
        self._born = shared.keepalive.tick
        self._heard = self._born  # tick of the last byte from the peer; else of the state's beginning
        self._paused = False  # whether reading is
        self._pulling = False  # whether _pull is on the stack
        self._full = False

    @classmethod
    def share(cls, config: Config, server_state: ServerState) -> Shared:
        """Return what all WebSockets of a server have in common."""
        return Shared.of(
            config, server_state, handshake_timeout=cls.handshake_timeout, closing_timeout=cls.closing_timeout
        )

    # Called by the peer that answers the handshake.

    def start(self, peer: Peer, rest: bytes) -> None:
        """Take the transport over; ``rest`` is what came after the request."""
        self._peer = peer
        self._transport.set_protocol(self)
        self._shared.connections.add(self)
        self._shared.keepalive.start()
        if rest:
            self._keep_early(rest)

    def accept(self, response: bytes) -> None:
        """Send the response that opens the WebSocket."""
        if self._state is not _State.CONNECTING:
            return
        self._state = _State.OPEN
        self._transport.set_write_buffer_limits(self.high_water, self.low_water)
        self._set_option(socket.SO_SNDBUF, self.send_buffer)
        self._transport.write(response)
        if self._reader is not None:
            self._read_on_later()

    def refuse(self, response: bytes) -> None:
        """Send a response that ends the connection instead."""
        if self._state is _State.CONNECTING:
            self._transport.write(response)
            self._end(rfc6455.LINK_DIED)

    def hand_over(self, peer: Peer, message: rfc6455.Frame | None) -> bool:
        """Make ``peer`` the connection's peer, unless the last one was told already that it is closed.

        Reading goes on, in a later turn of the event loop and with ``message`` once more.
        """
        if self._peer is None:
            return False
        self._peer = peer
        if message is not None:
            self._feed(b"").put_back(message)
        if self._paused:
            self._read_on_later()
        return True

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
        if sent != len(data):
            self._descriptor = _INDIRECT
            self._transport.write(memoryview(data)[sent:])

    def is_full(self) -> bool:
        """Whether more is buffered than :meth:`write` should add to."""
        return self._full

    def close(self, code: int, reason: str) -> None:
        """Send a close; ``Peer.closed`` follows in a later turn of the event loop.

        Raises ValueError for a code that must not be sent.
        """
        data = rfc6455.close_frame(code, reason)
        if self._state is not _State.OPEN:
            return
        self.write(data)
        self._enter(_State.CLOSING)
        self._tell(code)
        self.resume()

    def pause(self) -> None:
        """Read nothing more from the peer until :meth:`resume`."""
        if self._state is _State.OPEN and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on; what has been read already is delivered before this returns, if it is not being delivered."""
        if not self._paused:
            return
        self._paused = False
        if self._state is _State.OPEN:
            self._heard = self._shared.keepalive.tick
        self._transport.resume_reading()
        self._pull()

    # Called by uvicorn.

    def shutdown(self) -> None:
        """Close because the server stops."""
        if self._state is _State.CONNECTING:
            self.refuse(handshake.text_response(503, ()))
        else:
            self.close(GOING_DOWN, "the server restarts")

    def cut(self) -> None:
        """End at once because the server stops, and the peer has not answered the close in time."""
        self._abort()

    # Called by the sweep.

    def look(self, tick: int) -> None:
        """Ping a silent peer, and end what lasts too long."""
        age, limits, state = tick - self._heard, self._shared, self._state
        if state is _State.OPEN:
            if limits.is_due(tick - self._born):
                self.close(GOING_DOWN, "the connection has reached its greatest age")
            elif self._paused:  # nothing can be heard
                self._heard = tick
            elif age == limits.ping_at:
                self.write(_PING)
            elif age >= limits.drop_at:
                self._abort()
        elif state is _State.CONNECTING:
            if age >= limits.handshake_late:
                self.refuse(handshake.text_response(503, ()))
        elif state is not _State.CLOSED and age >= limits.closing_late:
            self._abort()

    # Called by the transport.

    def data_received(self, data: bytes) -> None:
        """Read frames."""
        state = self._state
        if state is _State.OPEN:
            self._heard = self._shared.keepalive.tick
        elif state is _State.CONNECTING:
            self._keep_early(data)
            return
        elif state is not _State.CLOSING:
            return
        self._feed(data)
        self._pull()

    def pause_writing(self) -> None:
        """Note that the buffer is over its limit."""
        self._full = True
        if self._peer is not None and self._state is _State.OPEN:
            self._peer.full()

    def resume_writing(self) -> None:
        """Note that the buffer has room again."""
        self._full = False
        if self._peer is not None and self._state is _State.OPEN:
            self._peer.drained()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 — asyncio's signature
        """Note that the link is gone."""
        self._shared.connections.discard(self)
        self._state = _State.CLOSED
        self._descriptor = _INDIRECT
        self._reader = None
        self._tell(rfc6455.LINK_DIED)

    def _write_indirectly(self, data: bytes) -> None:
        if self._state is not _State.OPEN:
            return
        transport = self._transport
        if transport.get_write_buffer_size() == 0 and transport.get_extra_info("sslcontext") is None:
            # The transport closes the socket only after it has told us that the connection is lost.
            self._descriptor = transport.get_extra_info("socket").fileno()
            self.write(data)
        else:
            transport.write(data)

    def _keep_early(self, data: bytes) -> None:
        if self._feed(data).size > self.early_size:
            self._transport.pause_reading()

    def _feed(self, data: bytes) -> rfc6455.Reader:
        reader = self._reader
        if reader is None:
            reader = self._reader = rfc6455.Reader(self._shared.max_size)
        reader.feed(data)
        return reader

    def _read_on_later(self) -> None:
        self._paused = False
        self._transport.resume_reading()
        self._shared.loop.call_soon(self._pull)

    def _pull(self) -> None:
        """Handle all frames that have come, unless reading is or becomes paused."""
        if self._pulling:
            return
        self._pulling = True
        try:
            while not self._paused and self._reader is not None:
                frame = self._reader.next()
                if frame is None:
                    if self._reader.is_empty:
                        self._reader = None
                    return
                self._take(*frame)
        except rfc6455.FrameError as error:
            self._fail(error)
        finally:
            self._pulling = False

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == rfc6455.CLOSE:
            self._closed_by_peer(payload)
        elif self._state is not _State.OPEN:
            return
        elif opcode in (rfc6455.TEXT, rfc6455.BINARY):
            if self._peer is not None:
                self._peer.received(payload, text=opcode == rfc6455.TEXT)
        elif opcode == rfc6455.PING and not self._full:
            # A peer that pings and does not read gets no pongs: they would pile up without end.
            self.write(rfc6455.frame(rfc6455.PONG, payload))

    def _closed_by_peer(self, payload: bytes) -> None:
        code = rfc6455.read_close(payload)
        if self._state is _State.OPEN:
            self.write(rfc6455.frame(rfc6455.CLOSE, payload[:2]))
        self._end(code)

    def _fail(self, error: rfc6455.FrameError) -> None:
        """Tell the peer what it did wrong, and wait for it to go.

        Were the link closed at once, what the peer still sends would be answered with a reset, and
        that may overtake the close.
        """
        if self._state is _State.OPEN:
            self.write(rfc6455.close_frame(error.code, str(error)))
        self._reader = None
        self._enter(_State.DEAF)
        self._tell(error.code)
        if self._transport.can_write_eof():  # TLS cannot: there the peer goes, or the sweep cuts the link
            self._transport.write_eof()

    def _end(self, code: int) -> None:
        self._reader = None
        self._enter(_State.ENDING)
        self._tell(code)
        self._transport.close()

    def _enter(self, state: _State) -> None:
        self._state = state
        self._descriptor = _INDIRECT
        self._heard = self._shared.keepalive.tick

    def _abort(self) -> None:
        """Cut the link and forget what is buffered, in the kernel too."""
        self._set_option(socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    def _set_option(self, option: int, value: int | bytes) -> None:
        link = self._transport.get_extra_info("socket")
        if link is not None:
            link.setsockopt(socket.SOL_SOCKET, option, value)

    def _tell(self, code: int) -> None:
        # In a later turn, so that a peer is never told of the end inside a call that it makes.
        self._shared.loop.call_soon(self._told, code)

    def _told(self, code: int) -> None:
        peer, self._peer = self._peer, None
        if peer is not None:
            peer.closed(code)

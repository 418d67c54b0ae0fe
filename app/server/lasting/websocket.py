"""A WebSocket (RFC 6455) over uvicorn's transport, written by its peer."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from app.core.ports import Heartbeat, Peer
from app.server.lasting.link import Link, LinkState
from app.server.lasting.link_context import LinkContext
from app.wire import frames, handshake
from app.wire.close_codes import CloseCode

_SECOND = 1.0 + 1e-3
"""A second, and what the sums of fractions may be off by."""


class WebSocketProtocol(Link):
    """A WebSocket from its handshake to its end, and the :class:`~app.core.ports.Writer` of its peer.

    An idle connection that was handed over takes 1.8 KiB of the process's memory (CPython 3.11, uvloop 0.23, 64 bits,
    mean of 19,000): this object (136 bytes), what it sends by (64), uvloop's transport (680) with libuv's handle
    (248) and its entry in the loop's table, the socket's addresses in the transport, one bound method, and an entry in
    uvicorn's set of connections. Scope, headers, task and HTTP protocol are freed when the application returns; there
    is no timer, and there is a reader only in the middle of a message. Tests check that no reference cycle keeps them.
    While the application itself receives and sends, its task, scope and frames take 5.5 KiB more.

    Invariant: ``_reader`` is None unless the connection is in the middle of a frame or message, or reading is paused.
    """

    __slots__ = ("_beat", "_even_at", "_paused", "_period", "_pulling", "_reader", "_yields", "is_reading")

    handshake_timeout: ClassVar[float] = 10.0
    """Seconds for the application to answer the handshake; the sweep ends it within half as many more."""

    closing_timeout: ClassVar[float] = 10.0
    """Seconds from a close until the connection may be cut; the sweep does it within half as many more."""

    early_size: ClassVar[int] = 64 * 1024
    """Bytes that a peer may send before its handshake is answered; then reading pauses."""

    frames_at_once: ClassVar[int] = 64
    """Frames of one peer that one turn of the event loop handles."""

    def __init__(self, transport: asyncio.Transport, context: LinkContext) -> None:
        super().__init__(transport, context, LinkState.CONNECTING)
        self._reader: frames.FrameReader | None = None
        self._paused = False  # whether the peer has paused reading
        self._yields = False  # whether reading is paused until _pull_on, for others to get their turn
        self.is_reading = True
        """Whether the transport reads what the peer sends."""
        self._pulling = False  # whether _pull is on the stack
        self._beat: bytes | None = None  # a heartbeat and a ping; None if there are only pings
        self._period = 0  # ticks between two heartbeats
        self._even_at = 0.0  # when, by the loop's clock, the frames so far are no more than may come by then

    # Called by what answers the handshake.

    def start(self, peer: Peer, rest: bytes) -> None:
        """Take the transport over; ``rest`` is what came after the request."""
        self._take_over(peer)
        if rest:
            self._keep_early(rest)

    def accept(self, response: bytes) -> None:
        """Send the response that opens the WebSocket."""
        if self._state is not LinkState.CONNECTING:
            return
        self._state = LinkState.OPEN
        self._limit_buffers()
        self._transport.write(response)
        if self._reader is not None:
            self._read_on_later()

    def refuse(self, response: bytes) -> None:
        """Send a response that ends the connection instead."""
        if self._state is LinkState.CONNECTING:
            self._transport.write(response)
            self._end(CloseCode.ABNORMAL)

    def hand_over(self, peer: Peer, message: frames.Frame | None, heartbeat: Heartbeat | None) -> bool:
        """Make ``peer`` the connection's peer, and return whether that was possible: not if it has closed already.

        Reading goes on in a later turn of the event loop, first with ``message``.
        """
        if self._peer is None:
            return False
        self._peer = peer
        if heartbeat is not None:
            self._beat = frames.with_ping(heartbeat.data)
            self._period = self._context.sweep.at_most(heartbeat.seconds)
        if message is not None:
            self._feed(b"").put_back(message)
        if self._reader is not None:
            self._reader.limit = self._most()
        if self._paused:
            self._read_on_later()
        return True

    # The Writer.

    def close(self, code: int, reason: str) -> None:
        """Send a close; ``Peer.closed`` follows in a later turn of the event loop.

        Raises ValueError for a code that must not be sent.
        """
        data = frames.close_frame(code, reason)
        if self._state is not LinkState.OPEN:
            return
        self.write(data)
        self._enter(LinkState.CLOSING)
        self._tell(code)
        self.resume()

    def pause(self) -> None:
        """Read nothing more from the peer until :meth:`resume`."""
        if self._state is LinkState.OPEN and not self._paused:
            self._paused = True
            self._read_or_not()

    def resume(self) -> None:
        """Read on; messages that have come already are delivered before this returns."""
        if not self._paused:
            return
        self._paused = False
        if self._state is LinkState.OPEN:
            self._heard = self._context.sweep.tick
        if not self._yields:
            self._pull()  # before more is read; it may pause again
            self._read_or_not()

    # Called by uvicorn.

    def shutdown(self) -> None:
        """Close because the server stops."""
        if self._state is LinkState.CONNECTING:
            self.refuse(handshake.text_response(503, ()))
        else:
            self.close(CloseCode.RESTARTING, "the server restarts")

    # Called by the sweep.

    def look(self, tick: int) -> None:
        """Ping a silent peer, and end the connection if something has taken too long."""
        age, limits, state = tick - self._heard, self._context.limits, self._state
        if state is LinkState.OPEN:
            self._look_at_open(tick, age)
        elif state is LinkState.CONNECTING:
            if age >= limits.handshake_late:
                self.refuse(handshake.text_response(503, ()))
        elif state is not LinkState.CLOSED and age >= limits.closing_late:
            self._abort()

    def _look_at_open(self, tick: int, age: int) -> None:
        limits = self._context.limits
        if limits.is_due(tick - self._born):
            self.close(CloseCode.RESTARTING, "the connection has reached its greatest age")
        elif self._is_stalled(tick):
            self._context.meter.limited("answer_time")
            self._abort()
        elif self._is_slow(tick):
            self._context.meter.limited("message_time")
            self._fail(frames.FrameError(CloseCode.POLICY_VIOLATION, "a message did not come in time"))
        elif self._beat is not None and (tick - self._born) % self._period == 0:
            self.write(self._beat)
        elif self._paused:  # the peer cannot be heard
            self._heard = tick
        elif self._beat is None and age == limits.ping_at:
            self.write(frames.PING_FRAME)
        elif age >= limits.drop_at:
            self._abort()

    def _is_slow(self, tick: int) -> bool:
        """Return whether the peer has begun a message or a frame, and does not end it in time."""
        reader = self._reader
        if reader is None or self._paused or self._yields:
            return False
        seconds = self._context.configured.request_time
        return self._context.limits.is_late(tick - reader.since, reader.size, seconds)

    # Called by the transport.

    def data_received(self, data: bytes) -> None:
        """Read frames."""
        state = self._state
        if state is LinkState.OPEN:
            self._heard = self._context.sweep.tick
        elif state is LinkState.CONNECTING:
            self._keep_early(data)
            return
        elif state is not LinkState.CLOSING:
            return
        self._feed(data)
        self._pull()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is lost."""
        self._drop_reader()
        super().connection_lost(exc)

    def _keep_early(self, data: bytes) -> None:
        if self._feed(data).size > self.early_size:
            self._paused = True
            self._read_or_not()

    def _feed(self, data: bytes) -> frames.FrameReader:
        reader = self._reader
        if reader is None:
            reader = self._reader = frames.FrameReader(self._most(), self._context.sweep.tick)
        reader.feed(data)
        return reader

    def _most(self) -> int:
        """Return the largest message that is accepted now, in bytes."""
        return self._context.max_size if self._peer is None else min(self._context.max_size, self._peer.max_size())

    def _read_on_later(self) -> None:
        self._paused, self._yields = False, True
        self._context.loop.call_soon(self._pull_on)

    def _read_or_not(self) -> None:
        """Let the transport read, or pause it."""
        wanted = not self._paused and not self._yields
        if wanted is not self.is_reading and not self._transport.is_closing():
            self.is_reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _pull(self) -> None:
        """Handle the frames that have come, as many as one turn of the loop may, unless reading is paused."""
        reader = self._reader
        if self._pulling or self._paused or reader is None:
            return
        self._pulling = True
        reader.allowance = self.frames_at_once
        try:
            self._take_all(reader)
        except frames.FrameError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 — a peer's bug ends its connection, so that it is never half alive
            self._crash(error)
        finally:
            self._pulling = False
        if self._reader is reader and self._is_in_pace(self.frames_at_once - reader.allowance):
            self._keep_reader(reader)

    def _is_in_pace(self, count: int) -> bool:
        """Count frames; close, and return False, if more have come than may in a second."""
        most, now = self._context.configured.frames, self._context.loop.time()
        self._even_at = max(self._even_at, now) + count / most
        if self._even_at - now <= _SECOND or self._state is not LinkState.OPEN:
            return True
        self._context.meter.limited("frames")
        self._fail(frames.FrameError(CloseCode.POLICY_VIOLATION, f"more than {most} frames came in a second"))
        return False

    def _take_all(self, reader: frames.FrameReader) -> None:
        pongs: list[bytes] = []  # sent in one write: a few kilobytes may hold a thousand pings
        try:
            while not self._paused and self._reader is reader:
                frame = reader.next()
                if frame is None:
                    return
                opcode, payload = frame
                if opcode == frames.PING:
                    pongs.append(frames.frame(frames.PONG, payload))
                else:
                    self._answer(pongs)
                    if opcode != frames.PONG:
                        reader.since = self._context.sweep.tick
                    self._take(opcode, payload)
        finally:
            self._answer(pongs)

    def _answer(self, pongs: list[bytes]) -> None:
        """Send pongs, unless the peer does not read: they would pile up without end."""
        if pongs and self._state is LinkState.OPEN and not self._full:
            self.write(b"".join(pongs))
        pongs.clear()

    def _keep_reader(self, reader: frames.FrameReader) -> None:
        """Keep the reader if it is in the middle of a message, or has to wait for the next turn."""
        if reader.is_empty:
            self._drop_reader()
        elif not self._counts(reader):
            self._context.meter.limited("frames_held")
            reason = "the server holds too much of unfinished messages: try again"
            self._fail(frames.FrameError(CloseCode.OVERLOADED, reason))
        elif not reader.allowance and not self._paused:
            self._yields = True
            self._read_or_not()
            self._context.backlog.join(self._pull_on)

    def _counts(self, reader: frames.FrameReader) -> bool:
        """Count what is kept against the bound over all connections; return whether there is room."""
        intake, size = self._context.intake, reader.size
        if size > reader.counted:
            if not intake.grow(reader.counted, size - reader.counted):
                return False
        else:
            intake.release(reader.counted - size)
        reader.counted = size
        return True

    def _pull_on(self) -> None:
        self._yields = False
        self._pull()
        self._read_or_not()

    def _drop_reader(self) -> None:
        if self._reader is not None:
            self._context.intake.release(self._reader.counted)
            self._reader = None

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == frames.CLOSE:
            self._closed_by_peer(payload)
        elif self._state is LinkState.OPEN and opcode in (frames.TEXT, frames.BINARY) and self._peer is not None:
            self._peer.received(payload, text=opcode == frames.TEXT)

    def _closed_by_peer(self, payload: bytes) -> None:
        code = frames.read_close(payload)
        if self._state is LinkState.OPEN:
            self.write(frames.frame(frames.CLOSE, payload[:2]))
        self._end(code)

    def _fail(self, error: frames.FrameError) -> None:
        """Tell the peer what it did wrong, and wait until it closes.

        If the connection were closed at once, the kernel would answer what the peer still sends with a reset, which
        could overtake the close frame.
        """
        if self._state is LinkState.OPEN:
            self.write(frames.close_frame(error.code, str(error)))
        if error.code == CloseCode.TOO_BIG:
            self._context.meter.limited("frame_size")
        self._drop_reader()
        self._enter(LinkState.DEAF)
        self._tell(error.code)
        if self._transport.can_write_eof():  # TLS cannot: there the peer closes, or the sweep cuts the connection
            self._transport.write_eof()

    def _end(self, code: int) -> None:
        self._drop_reader()
        super()._end(code)

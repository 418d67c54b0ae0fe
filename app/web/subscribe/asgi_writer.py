"""Connections over plain ASGI, for servers that cannot hand them over: slower, with the same behaviour.

Connects a :class:`~app.core.ports.Peer` to ASGI's ``receive`` and ``send``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.types import Receive, Scope, Send

from app.core.delivery.encodings import TEXT_END
from app.core.ports import Handover, Heartbeat, Peer, ResponseHandover, Writer
from app.web.edge.draining import lasting
from app.wire.close_codes import CloseCode

HIGH_BYTES = 128 * 1024
LOW_BYTES = 32 * 1024
"""A connection is full from the moment that its queue exceeds the first until it is below the second."""

Emit = Callable[[bytes], Awaitable[None]]
"""Sends the bytes of one write."""


class AsgiWriter(Writer):
    """A :class:`~app.core.ports.Writer` with a bounded queue that a task empties."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._heartbeat: Heartbeat | None = None
        self._full = False
        self._news = asyncio.Event()
        self._reading = asyncio.Event()
        self._reading.set()
        self.peer: Peer
        """Set before anything is written."""
        self.closing: tuple[int, str] | None = None
        """The close code and reason once :meth:`close` was called; None before."""

    def hand_over(self, peer: Peer, heartbeat: Heartbeat | None = None) -> AsgiWriter:
        """Become the writer of a peer. The :class:`~app.core.ports.Handover` of a WebSocket or a response."""
        self.peer = peer
        self._heartbeat = heartbeat
        return self

    def write(self, data: bytes) -> None:
        """Queue bytes; after :meth:`close`, drop them."""
        if self.closing is None:
            self._queue.append(data)
            self._size += len(data)
            self._news.set()
            if self._size > HIGH_BYTES and not self._full:
                self._full = True
                self.peer.full()

    def is_full(self) -> bool:
        """Whether the queue is full, and has not fallen below :data:`LOW_BYTES` since."""
        return self._full

    def close(self, code: int, reason: str) -> None:
        """Send what is queued, then end the connection."""
        if self.closing is None:
            self.closing = (code, reason)
            self._news.set()

    def pause(self) -> None:
        """Block :meth:`readable`."""
        self._reading.clear()

    def resume(self) -> None:
        """Unblock :meth:`readable`."""
        self._reading.set()

    async def readable(self) -> None:
        """Wait until the peer wants to read."""
        await self._reading.wait()

    async def run(self) -> None:
        """Send what is written until :meth:`close`, and the heartbeat after silence."""
        data, seconds = self._heartbeat or (b"", None)
        while self._queue or self.closing is None:
            if self._queue:
                await self._emit_next()
                continue
            self._news.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._news.wait()
            except TimeoutError:
                await self._emit(data)

    async def _emit_next(self) -> None:
        data = self._queue.popleft()
        await self._emit(data)
        self._size -= len(data)
        if self._full and self._size < LOW_BYTES:
            self._full = False
            self.peer.writable()


async def serve_websocket(begin: Callable[[Handover], Peer], receive: Receive, send: Send) -> None:
    """Run an accepted WebSocket until either side ends it; ``begin`` makes the peer."""

    async def emit(records: bytes) -> None:
        for text in records.split(TEXT_END)[:-1]:
            await send({"type": "websocket.send", "text": text.decode()})

    writer = AsgiWriter(emit)
    begin(writer.hand_over)
    sending = asyncio.create_task(writer.run())
    reading = asyncio.create_task(_read(writer, receive))
    code: int = CloseCode.ABNORMAL
    try:
        await asyncio.wait({sending, reading}, return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            code = CloseCode.ABNORMAL if reading.exception() else reading.result()
        elif sending.exception() is None and writer.closing is not None:
            code, reason = writer.closing
            await send({"type": "websocket.close", "code": code, "reason": reason})
    finally:
        writer.peer.closed(code)
        await _end(sending, reading)


async def _read(writer: AsgiWriter, receive: Receive) -> int:
    """Pass the subscriber's messages to the peer; return the close code when it disconnects."""
    while True:
        await writer.readable()
        event = await receive()
        if event["type"] == "websocket.disconnect":
            return int(event.get("code") or CloseCode.ABNORMAL)
        text = event.get("text")
        if text is None:
            writer.peer.received(event["bytes"], text=False)
        else:
            writer.peer.received(text.encode(), text=True)


async def serve_response(begin: Callable[[ResponseHandover], Peer], scope: Scope, receive: Receive, send: Send) -> None:
    """Run a response that has started until either side ends it; ``begin`` makes the peer."""

    async def emit(data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})

    writer = AsgiWriter(emit)
    begin(writer.hand_over)
    sending = asyncio.create_task(writer.run())
    watching = asyncio.create_task(disconnected(receive))
    code: int = CloseCode.ABNORMAL
    try:
        with lasting(scope, lambda: writer.close(CloseCode.RESTARTING, "")):
            await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not watching.done() and sending.exception() is None and writer.closing is not None:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            code, _ = writer.closing
    finally:
        writer.peer.closed(code)
        await _end(sending, watching)


async def _end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, wait for their end, and leave to nobody what they raised.

    It does not use ``gather``, so that a caller that cancels it, such as AnyIO's scopes, gets its own CancelledError.
    """
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()


async def disconnected(receive: Receive) -> None:
    """Return when the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass

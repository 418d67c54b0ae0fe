"""The load client: very many WebSockets and event streams in one process, whose messages go to a callback each.

Benchmarks and tests open their crowds with it, and load tests read with its parsers, which have no I/O. What measures a
server at its limit is the benchmarks' ``fanclient.c``, which costs a tenth of this for each message.
"""

from __future__ import annotations

import asyncio
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Self, cast

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA

WEBSOCKET = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
"""The headers of a WebSocket's handshake, with the key of RFC 6455's example."""

V1_PROTOCOL = "Sec-WebSocket-Protocol: abide.v1"


class BrokenError(ValueError):
    """The server sent what no server may send; the text shows where it begins."""


class RefusedError(ConnectionError):
    """The request was not answered as asked; the text is the first line of the answer."""


class Frames:
    """Cuts the bytes of a WebSocket into frames, as a server sends them: whole, and not masked."""

    def __init__(self) -> None:
        self._kept = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the opcode and payload of each frame that is complete. Raises :class:`BrokenError`."""
        data = self._kept + data if self._kept else data
        frames, at, end = [], 0, len(data)
        while end - at >= 2:
            size, start = data[at + 1], at + 2
            if data[at] & 0xF0 != 0x80 or size & 0x80:
                msg = f"a frame that no server may send: {data[at : at + 20]!r}"
                raise BrokenError(msg)
            if size >= 126:
                start += 2 if size == 126 else 8
                if start > end:
                    break
                size = int.from_bytes(data[at + 2 : start])
            if start + size > end:
                break
            frames.append((data[at] & 0x0F, data[start : start + size]))
            at = start + size
        self._kept = data[at:]
        return frames


class Events:
    """Cuts the chunks of an event stream into events. ``is_over`` says that the last chunk has come."""

    def __init__(self) -> None:
        self.is_over = False
        self._chunks = self._text = b""

    def feed(self, data: bytes) -> list[dict[str, str]]:
        """Return the fields of each event that is complete; comments and ``retry`` alone are none."""
        self._chunks += data
        while (chunk := self._chunk()) is not None:
            self._text += chunk
        *whole, self._text = self._text.split(b"\n\n")
        return [fields for event in whole if (fields := _fields(event)).keys() - {"retry"}]

    def _chunk(self) -> bytes | None:
        head, newline, rest = self._chunks.partition(b"\r\n")
        if not newline:
            return None
        size = int(head, 16)
        if len(rest) < size + 2:
            return None
        self.is_over = not size
        self._chunks = rest[size + 2 :]
        return rest[:size]


def _fields(event: bytes) -> dict[str, str]:
    lines = (line.partition(": ") for line in event.decode().split("\n"))
    return {name: value for name, _, value in lines if name and not name.startswith(":")}


class Connection(asyncio.Protocol, ABC):
    """One connection, once it is told to ``connect``: sends a request, and hands on what comes after the answer's head.

    ``opened`` is done when the request is answered as asked, and fails with the :class:`ConnectionError` of a refusal.
    ``over`` is done at the end; ``over_at`` is when that was, by the monotonic clock, and ``error`` says why.
    """

    answer: ClassVar[bytes]
    """What the answer begins with if the request is not refused."""

    def __init__(self, target: str, *headers: str) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[None] = loop.create_future()
        self.over_at: float | None = None
        self.error: Exception = ConnectionAbortedError("cut by this side")
        self._transport: asyncio.Transport | None = None
        self._request = "\r\n".join((f"GET {target} HTTP/1.1", "Host: 127.0.0.1", *headers, "", "")).encode("latin-1")
        self._head: bytes | None = b""

    async def connect(self, port: int, *, source: str | None = None, receive_buffer: int | None = None) -> Self:
        """Connect to a port of 127.0.0.1; the answer is ``opened``'s matter. Raises OSError.

        ``source`` is another address of this machine's to come from, as each has only so many ports;
        ``receive_buffer``, without it, are the bytes that the operating system takes while nobody reads.
        """
        loop = asyncio.get_running_loop()
        if receive_buffer is None:
            local = None if source is None else (source, 0)
            await loop.create_connection(lambda: self, "127.0.0.1", port, local_addr=local)
            return self
        link = socket.socket()
        try:
            link.settimeout(0)
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            await loop.sock_connect(link, ("127.0.0.1", port))
            await loop.create_connection(lambda: self, sock=link)
        except BaseException:
            link.close()
            raise
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Hand on what came; the connection ends by what is raised."""
        try:
            if self._head is None:
                self.receive(data)
            else:
                self._open(data)
        except Exception as error:  # noqa: BLE001 — it is kept for who waits for the end
            self.end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        self.end(exc or ConnectionResetError("the server has ended the connection"))

    def pause(self) -> None:
        """Read nothing more."""
        if self._transport is not None:
            self._transport.pause_reading()

    def go_on(self) -> None:
        """Read again."""
        if self._transport is not None:
            self._transport.resume_reading()

    def end(self, error: Exception | None = None) -> None:
        """Cut the connection, in the middle of whatever comes."""
        if self.over_at is not None:
            return
        self.over_at = time.monotonic()
        self.error = error or self.error
        if not self.over.done():  # who waited for it may have been cancelled, and it by that
            self.over.set_result(None)
        if not self.opened.done():
            self.opened.set_exception(self.error)
            self.opened.exception()  # not everybody waits for it
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def write(self, data: bytes) -> None:
        """Send bytes, unless the connection is not there."""
        if self._transport is not None:
            self._transport.write(data)

    @abstractmethod
    def receive(self, data: bytes) -> None:
        """Take bytes that came after the answer's head."""

    def _open(self, data: bytes) -> None:
        head, end, rest = ((self._head or b"") + data).partition(b"\r\n\r\n")
        if not end:
            self._head = head
            return
        if not head.startswith(self.answer):
            raise RefusedError(head.partition(b"\r\n")[0].decode("latin-1"))
        self._head = None
        self.opened.set_result(None)
        if rest:
            self.receive(rest)


class WebSocket(Connection):
    """A WebSocket; ``take`` gets the payload of each text frame, and ``code`` is that of the server's close."""

    answer = b"HTTP/1.1 101 "

    def __init__(self, target: str, take: Callable[[bytes], None], *headers: str) -> None:
        super().__init__(target, *WEBSOCKET, *headers)
        self.code: int | None = None
        self._take = take
        self._frames = Frames()

    def send(self, text: str) -> None:
        """Send a text frame."""
        self._send(TEXT, text.encode())

    def receive(self, data: bytes) -> None:
        """Hand on texts, and answer pings and the close."""
        for opcode, payload in self._frames.feed(data):
            if opcode == TEXT:
                self._take(payload)
            elif opcode == PING:
                self._send(PONG, payload)
            elif opcode == CLOSE:
                self._send(CLOSE, payload[:2])
                self.code = int.from_bytes(payload[:2]) if payload else None
                self.end(ConnectionResetError(f"closed with {self.code} {payload[2:].decode()}"))
                return

    def _send(self, opcode: int, payload: bytes) -> None:
        """Send a frame, masked with zeros."""
        size = len(payload)
        length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2)
        self.write(bytes((0x80 | opcode,)) + length + bytes(4) + payload)


class EventStream(Connection):
    """Server-Sent Events; ``take`` gets the fields of each event."""

    answer = b"HTTP/1.1 200 "

    def __init__(self, target: str, take: Callable[[dict[str, str]], None], *headers: str) -> None:
        super().__init__(target, "Accept: text/event-stream", *headers)
        self._take = take
        self._events = Events()

    def receive(self, data: bytes) -> None:
        """Hand on events."""
        for event in self._events.feed(data):
            self._take(event)
        if self._events.is_over:
            self.end(ConnectionResetError("the stream has ended"))

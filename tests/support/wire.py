"""A WebSocket client that sends exactly the bytes it is told to, right or wrong."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from types import TracebackType
from typing import Self

PATIENCE = 10.0
"""Seconds after which a test gives up."""

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
"""The key of RFC 6455's example."""

ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""What the RFC answers to it."""

MASK = b"\x37\xfa\x21\x3d"


def frame(  # noqa: PLR0913 — a frame has that many parts
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    mask: bytes | None = MASK,
    length_size: int | None = None,
) -> bytes:
    """Return a frame as a client sends it; ``length_size`` forces 0, 2 or 8 bytes of extended length."""
    size = len(payload)
    if length_size is None:
        length_size = 0 if size < 126 else 2 if size < 1 << 16 else 8
    short = {0: size, 2: 126, 8: 127}[length_size]
    header = bytes((fin << 7 | reserved << 4 | opcode, (mask is not None) << 7 | short))
    header += size.to_bytes(length_size, "big") if length_size else b""
    return header + payload if mask is None else header + mask + masked(payload, mask)


def masked(payload: bytes, mask: bytes = MASK) -> bytes:
    """Return the payload as it is sent."""
    size = len(payload)
    stretched = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(stretched)).to_bytes(size)


def close(code: int, reason: bytes = b"") -> bytes:
    """Return a close as a client sends it."""
    return frame(CLOSE, code.to_bytes(2, "big") + reason)


def request(path: str, *, drop: tuple[str, ...] = (), add: tuple[str, ...] = (), line: str | None = None) -> bytes:
    """Return a handshake; without the headers named in ``drop``, with the lines in ``add``."""
    headers = {
        "Host": "abide",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    lines = [f"{name}: {value}" for name, value in headers.items() if name not in drop]
    return "\r\n".join([line or f"GET {path} HTTP/1.1", *lines, *add, "", ""]).encode("latin-1")


class Wire:
    """A connection to 127.0.0.1; ``received`` has what came and was not read as a frame."""

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect(("127.0.0.1", port))
        self.received = b""

    @classmethod
    def open(cls, port: int, path: str = "/echo", *, receive_buffer: int | None = None) -> Self:
        """Connect and open a WebSocket."""
        wire = cls(port, receive_buffer=receive_buffer)
        wire.send(request(path))
        status = wire.read_head()
        assert status.startswith(b"HTTP/1.1 101 "), status
        return wire

    def send(self, data: bytes, *, size: int | None = None) -> None:
        """Send, in pieces of ``size``; a connection that the server has closed meanwhile is no error."""
        with contextlib.suppress(ConnectionError):
            for at in range(0, len(data), size or max(1, len(data))):
                self.socket.sendall(data[at : at + (size or len(data))])

    def read_head(self) -> bytes:
        """Read and return a response as far as its headers go."""
        while b"\r\n\r\n" not in self.received:
            assert self._read(), f"closed after {self.received!r}"
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        return head

    def read_until(self, end: bytes) -> bytes:
        """Read until the bytes received end so; return and forget them."""
        while not self.received.endswith(end):
            assert self._read(), f"closed after {self.received!r}"
        received, self.received = self.received, b""
        return received

    def read_frame(self) -> tuple[int, bytes]:
        """Read a frame; return its opcode and payload. Fails unless it is one that a server may send."""
        first, second = self._take(2)
        size = second
        if second >= 126:
            size = int.from_bytes(self._take(2 if second == 126 else 8), "big")
            assert size >= (126 if second == 126 else 1 << 16)
        assert first & 0xF0 == 0x80, "not one whole frame without reserved bits"
        return first & 0x0F, self._take(size)

    def read_close(self) -> int | None:
        """Read a close, then the end; return its code."""
        opcode, payload = self.read_frame()
        assert opcode == CLOSE, (opcode, payload)
        assert self.read_rest() == b""
        return int.from_bytes(payload[:2], "big") if payload else None

    def read_rest(self) -> bytes:
        """Read to the end of the connection, which must be an orderly one."""
        pieces = [self.received]
        while data := self.socket.recv(65536):
            pieces.append(data)
        self.received = b""
        return b"".join(pieces)

    def is_closed_within(self, seconds: float) -> bool:
        """Read for so long, and return whether the server closed the connection."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            readable, _, _ = select.select([self.socket], [], [], left)
            if readable and not self._read():
                return True
        return False

    def reset(self) -> None:
        """Cut the connection."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.socket.close()

    def _take(self, size: int) -> bytes:
        while len(self.received) < size:
            assert self._read(), f"closed after {self.received!r}"
        taken, self.received = self.received[:size], self.received[size:]
        return taken

    def _read(self) -> bytes:
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            data = b""
        self.received += data
        return data

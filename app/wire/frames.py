"""WebSocket frames (RFC 6455) without I/O: reads what clients send, makes what servers send.

Sizes are in bytes. No extension is supported, so the reserved bits must be zero: compression would cost each
connection a window of memory, and each frame an encoding of its own.
"""

from __future__ import annotations

import sys
from functools import cache
from struct import Struct

from app.wire.close_codes import CloseCode, fit_reason, is_sendable

try:
    from websockets.speedups import apply_mask
except ImportError:  # websockets was installed without its C extension

    def apply_mask(data: bytes | bytearray | memoryview, mask: bytes | bytearray) -> bytes:
        """XOR ``data`` with the four bytes of ``mask``, over and over."""
        size = len(data)
        key = (mask * (size // 4 + 1))[:size]
        return (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


CONTINUATION, TEXT, BINARY = 0x0, 0x1, 0x2
CLOSE, PING, PONG = 0x8, 0x9, 0xA

Frame = tuple[int, bytes]
"""Opcode and unmasked payload: of a control frame, or of a whole message."""

_FIN, _OPCODE = 0x80, 0x0F
_MASKED, _LENGTH = 0x80, 0x7F
_LENGTH_16, _LENGTH_64 = 126, 127  # these lengths say that the length follows, in so many bits
_SIZE_16, _SIZE_64 = 2, 8  # bytes of that length
_HEADER_16, _HEADER_64 = Struct(">BBH").pack, Struct(">BBQ").pack
_MASK_SIZE = 4
_MAX_CONTROL = 125
_DATA = (CONTINUATION, TEXT, BINARY)
_CONTROL = (CLOSE, PING, PONG)
_FIRST_BYTES = frozenset({*_DATA, *(_FIN | opcode for opcode in (*_DATA, *_CONTROL))})


class FrameError(Exception):
    """The peer broke the protocol; ``code`` and ``str(error)`` go into the close that tells it."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class FrameReader:
    """Reads frames from the bytes of one client.

    It is needed only from a frame's first byte to the end of its message: while :attr:`is_empty` is true, it may be
    dropped, and a new one reads on.

    Invariant: while ``_payload`` is not None, it has all that came after the frame's header, and ``_buffer`` is
    used up.
    """

    __slots__ = (
        "_at", "_buffer", "_first", "_held", "_length", "_mask", "_message", "_payload", "allowance", "counted",
        "limit", "since",
    )  # fmt: skip

    def __init__(self, limit: int, since: int = 0) -> None:
        self.since = since
        """When the message that is being read began, by a clock of the reader's owner."""
        self.limit = limit
        """Bytes of the largest message."""
        self.allowance = sys.maxsize
        """How many frames :meth:`next` may still read; at 0 it returns None even if more have come."""
        self.counted = 0
        """How much of :attr:`size` the owner has counted against the bound over all connections."""
        self._buffer = b""
        self._at = 0  # the buffer has been read up to here
        self._length = -1  # of the payload; negative while the header is incomplete
        self._mask = b""  # valid with _length
        self._first = 0  # byte of the header; valid with _length
        self._payload: bytearray | None = None  # of a frame that came in several pieces
        self._message: tuple[int, bytearray] | None = None  # opcode and fragments of an unfinished message
        self._held: Frame | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the reader keeps no byte and no unfinished message."""
        return (
            self._at == len(self._buffer)
            and self._length < 0
            and self._message is None
            and self._payload is None
            and self._held is None
        )

    @property
    def size(self) -> int:
        """Bytes that have come and do not make a whole message yet."""
        unread = len(self._buffer) - self._at if self._payload is None else len(self._payload)
        return unread if self._message is None else unread + len(self._message[1])

    def feed(self, data: bytes) -> None:
        """Take the bytes that came next, any number of them."""
        if self._payload is not None:
            self._payload += data
        elif self._at == len(self._buffer):
            self._buffer, self._at = data, 0
        else:
            self._buffer, self._at = self._buffer[self._at :] + data, 0

    def put_back(self, frame: Frame) -> None:
        """Return this frame from :meth:`next` once more."""
        self._held = frame

    def next(self) -> Frame | None:
        """Return the next control frame or whole message; None until more is fed or allowed.

        Raises :class:`FrameError`; the reader cannot be used after that.
        """
        if self._held is not None:
            frame, self._held = self._held, None
            return frame
        while self.allowance and (self._length >= 0 or self._read_header()):
            payload = self._read_payload()
            if payload is None:
                return None
            self.allowance -= 1
            read = self._finish(payload)
            if read is not None:
                return read
        return None

    def _read_header(self) -> bool:
        """Read a header if all of it has come; refuse a wrong one at its first wrong byte."""
        buffer, at = self._buffer, self._at
        have = len(buffer) - at
        if have == 0:
            self._buffer, self._at = b"", 0
            return False
        self._check_first(buffer[at])
        if have == 1:
            return False
        length = self._check_second(buffer[at], buffer[at + 1])
        end = at + 2
        if length >= _LENGTH_16:
            end += _SIZE_16 if length == _LENGTH_16 else _SIZE_64
            if have < end - at:
                return False
            length = _extended_length(buffer[at + 2 : end])
        self._check_size(buffer[at], length)
        if have < end - at + _MASK_SIZE:
            return False
        self._at = end + _MASK_SIZE
        self._mask = buffer[end : self._at]
        self._first, self._length = buffer[at], length
        return True

    def _check_first(self, first: int) -> None:
        if first not in _FIRST_BYTES:
            raise FrameError(CloseCode.PROTOCOL_ERROR, _what_is_wrong_with(first))
        opcode = first & _OPCODE
        if opcode == CONTINUATION and self._message is None:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "continuation of no message")
        if opcode in (TEXT, BINARY) and self._message is not None:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "message inside a fragmented message")

    def _check_second(self, first: int, second: int) -> int:
        if not second & _MASKED:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "frame is not masked")
        length = second & _LENGTH
        if length > _MAX_CONTROL and first & _OPCODE >= CLOSE:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "control frame is too long")
        return length

    def _check_size(self, first: int, length: int) -> None:
        so_far = len(self._message[1]) if self._message is not None else 0
        if first & _OPCODE < CLOSE and so_far + length > self.limit:
            raise FrameError(CloseCode.TOO_BIG, f"message is over {self.limit} bytes")

    def _read_payload(self) -> bytes | None:
        """Return the frame's payload if all of it has come, else keep what has come."""
        if self._payload is None:
            end = self._at + self._length
            if end <= len(self._buffer):
                masked, self._at = self._buffer[self._at : end], end
                return apply_mask(masked, self._mask)
            self._payload = bytearray(memoryview(self._buffer)[self._at :])
            self._buffer, self._at = b"", 0
            return None
        if len(self._payload) < self._length:
            return None
        self._buffer, self._at = bytes(memoryview(self._payload)[self._length :]), 0
        del self._payload[self._length :]
        payload = apply_mask(self._payload, self._mask)
        self._payload = None
        return payload

    def _finish(self, payload: bytes) -> Frame | None:
        """Return what the frame completes: itself, a message, or None."""
        first, self._length = self._first, -1
        opcode = first & _OPCODE
        if opcode >= CLOSE:
            return opcode, payload
        if self._message is not None or not first & _FIN:
            message = self._append(opcode, payload)
            if not first & _FIN:
                return None
            opcode, payload, self._message = message[0], bytes(message[1]), None
        if opcode == TEXT:
            check_utf8(payload)
        return opcode, payload

    def _append(self, opcode: int, payload: bytes) -> tuple[int, bytearray]:
        if self._message is None:
            self._message = (opcode, bytearray())
        # One buffer that grows: a list of fragments of one byte each would take fifty times their size.
        self._message[1].extend(payload)
        return self._message


def frame(opcode: int, payload: bytes) -> bytes:
    """Return one unfragmented, unmasked frame, as a server sends it (RFC 6455 §5.2)."""
    size = len(payload)
    if size < _LENGTH_16:
        return bytes((_FIN | opcode, size)) + payload
    if size < 1 << 16:
        return _HEADER_16(_FIN | opcode, _LENGTH_16, size) + payload
    return _HEADER_64(_FIN | opcode, _LENGTH_64, size) + payload


PING_FRAME = frame(PING, b"")


def text_frame(data: bytes) -> bytes:
    """Return ``data``, which is UTF-8, as one text frame."""
    return frame(TEXT, data)


@cache
def with_ping(data: bytes) -> bytes:
    """Return ``data``, which is frames, with a ping behind them: one object for all connections that send the same."""
    return data + PING_FRAME


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a close frame; a reason that is too long is cut.

    Raises ValueError for a code that must not be sent.
    """
    if not is_sendable(code):
        msg = f"{code} is not a close code that may be sent"
        raise ValueError(msg)
    return frame(CLOSE, code.to_bytes(2, "big") + fit_reason(reason).encode())


def read_close(payload: bytes) -> int:
    """Return the code of a close that was received, 1005 if it has none.

    Raises :class:`FrameError` for a code that must not be sent, and for a reason that is not UTF-8.
    """
    if not payload:
        return CloseCode.NO_CODE
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not is_sendable(code):
        raise FrameError(CloseCode.PROTOCOL_ERROR, "invalid close code")
    check_utf8(payload[2:])
    return code


def check_utf8(data: bytes) -> None:
    """Raise :class:`FrameError` unless ``data`` is UTF-8."""
    if data.isascii():
        return
    try:
        data.decode()
    except UnicodeDecodeError:
        raise FrameError(CloseCode.INVALID_UTF8, "text is not UTF-8") from None


def _extended_length(encoded: bytes) -> int:
    """Return the length in two or eight bytes. Raises :class:`FrameError` if fewer would do."""
    length = int.from_bytes(encoded, "big")
    least = _LENGTH_16 if len(encoded) == _SIZE_16 else 1 << 16
    if length >> 63:
        raise FrameError(CloseCode.PROTOCOL_ERROR, "length is negative")
    if length < least:
        raise FrameError(CloseCode.PROTOCOL_ERROR, "length is not encoded in the fewest bytes")
    return length


def _what_is_wrong_with(first: int) -> str:
    if first & ~(_FIN | _OPCODE):
        return "reserved bit is set"
    return "control frame is fragmented" if first & _OPCODE in _CONTROL else "unknown opcode"

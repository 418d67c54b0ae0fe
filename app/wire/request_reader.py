"""Requests from the bytes of one connection, without I/O: request heads, and bodies as RFC 9112 frames them.

A request head is read only when the caller asks for it, which it does when it has answered the request before. What
a client sends ahead stays bytes until then.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from app.wire.request_head import MAX_HEAD, BadRequestError, RequestHead, RequestHeadReader, field, parse

MAX_FRAMING = 64 * 1024
"""The most bytes of chunk extensions and trailers together in one request."""

_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_LONGEST_SIZE = 17
"""Bytes of a chunk's size with its line end; the rest of that line is an extension."""
_EMPTY = b"\r\n"
_END = b"\r\n\r\n"
_MOST_EMPTY = 2
"""Empty lines that are skipped before a request: some clients send one too many after a body."""

_STEPS = 100
"""Chunks and lines that one call reads, in a quarter of a millisecond."""

_NEVER_TRAILERS = frozenset(
    (
        b"authorization", b"connection", b"content-encoding", b"content-length", b"content-type", b"cookie", b"expect",
        b"forwarded", b"host", b"idempotency-key", b"last-event-id", b"origin", b"proxy-authorization", b"te",
        b"trailer", b"transfer-encoding", b"upgrade", b"via",
    )
)  # fmt: skip
"""Fields that must not be trailers: merged into the headers, they would change the caller, the target or the length."""


class _Expects(Enum):
    HEAD = auto()
    BODY = auto()  # of a known length
    SIZE = auto()  # the line before a chunk
    CHUNK = auto()
    CHUNK_END = auto()
    TRAILER = auto()


class RequestReader:
    """Reads one request after the other: :meth:`head`, then :meth:`body` until :attr:`is_at_head` is true again."""

    __slots__ = ("_at", "_buffer", "_empty", "_expects", "_framing", "_head", "_left", "has_more")

    def __init__(self) -> None:
        self._buffer = b""
        self._at = 0  # what is before it in the buffer has been read
        self._expects = _Expects.HEAD
        self._head: RequestHeadReader | None = None  # of a request head that came in pieces, or is wrong
        self._empty = 0  # lines that were skipped before the request head
        self._left = 0  # bytes of the body, or of the chunk
        self._framing = 0  # bytes of extensions and trailers
        self.has_more = False
        """Whether :meth:`body` stopped early so as not to take too long: call it again, in a later turn."""

    @property
    def size(self) -> int:
        """Bytes that have come and are not read yet."""
        return len(self._buffer) - self._at

    @property
    def is_at_head(self) -> bool:
        """Whether a request head comes next, or has begun."""
        return self._expects is _Expects.HEAD

    @property
    def has_begun(self) -> bool:
        """Whether a part of the next request head has come."""
        return self._expects is _Expects.HEAD and (self._head is not None or self._at < len(self._buffer))

    @property
    def is_between_requests(self) -> bool:
        """Whether all that has come was read, and the next byte begins a request."""
        return self._expects is _Expects.HEAD and self._head is None and self._at == len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take the bytes that came next, any number of them."""
        self._buffer = self._buffer[self._at :] + data if self.size else data
        self._at = 0

    def rest(self) -> bytes:
        """Remove and return all bytes that are not read yet."""
        return self._take(self.size)

    def head(self) -> RequestHead | None:
        """Return the next request head; None until more is fed.

        Raises :class:`BadRequestError`; the reader cannot be used after that.
        """
        if self._head is None:
            end = self._buffer.find(_END, self._at, self._at + MAX_HEAD) + len(_END)
            head = parse(self._buffer[self._at : end]) if end >= len(_END) else None
            if head is not None:
                self._take(end - self._at)
                return self._begin_body(head)
        return self._head_in_pieces() if self.size else None

    def _head_in_pieces(self) -> RequestHead | None:
        reader = self._head = self._head or RequestHeadReader()
        while (line := self._line()) is not None:
            if line == _EMPTY and not reader.has_begun and self._empty < _MOST_EMPTY:
                self._empty += 1
                continue
            head = reader.take(line)
            if head is not None:
                return self._begin_body(head)
        reader.check_unfinished(self._buffer[self._at :])
        return None

    def _begin_body(self, head: RequestHead) -> RequestHead:
        """Read the body of ``head`` next."""
        self._head, self._empty, self._framing = None, 0, 0
        if head.length is None:
            self._expects = _Expects.SIZE
        elif head.length:
            self._expects, self._left = _Expects.BODY, head.length
        return head

    def body(self) -> bytes:
        """Return the next bytes of the body; none until more is fed, and at its end.

        Raises :class:`BadRequestError`; the reader cannot be used after that.
        """
        self.has_more = False
        if self._expects is _Expects.BODY:
            return self._piece(_Expects.HEAD)
        return self._chunks()

    def _chunks(self) -> bytes:
        pieces: list[bytes] = []
        for _ in range(_STEPS):
            if self.is_at_head:
                break
            if self._expects is _Expects.CHUNK:
                piece = self._piece(_Expects.CHUNK_END)
                if not piece:
                    break
                pieces.append(piece)
            else:
                line = self._line()
                if line is None:
                    self._check_unfinished()
                    break
                self._take_line(line)
        else:
            self.has_more = not self.is_at_head
        return b"".join(pieces)

    def _piece(self, after: _Expects) -> bytes:
        piece = self._take(min(self._left, self.size))
        self._left -= len(piece)
        if not self._left:
            self._expects = after
        return piece

    def _take_line(self, line: bytes) -> None:
        if self._expects is _Expects.SIZE:
            self._begin_chunk(line)
        elif self._expects is _Expects.CHUNK_END:
            if line != _EMPTY:
                raise _bad_chunk()
            self._expects = _Expects.SIZE
        elif line == _EMPTY:
            self._expects = _Expects.HEAD
        else:
            self._count(len(line))
            name, _ = field(line)
            if name in _NEVER_TRAILERS or name.startswith(b"x-forwarded-"):
                msg = f"The header {name.decode('ascii')} must not be a trailer."
                raise BadRequestError(msg)

    def _begin_chunk(self, line: bytes) -> None:
        match = _CHUNK.fullmatch(line)
        if match is None:
            raise _bad_chunk()
        self._count(len(line) - len(match[1]) - len(_EMPTY))
        self._left = int(match[1], 16)
        self._expects = _Expects.CHUNK if self._left else _Expects.TRAILER

    def _check_unfinished(self) -> None:
        """Raise :class:`BadRequestError` if a line without its end is wrong or too long already."""
        size = self.size
        if self._expects is _Expects.CHUNK_END and size and not _EMPTY.startswith(self._buffer[self._at :]):
            raise _bad_chunk()
        if self._framing + size > MAX_FRAMING + _LONGEST_SIZE:
            raise _too_much()

    def _count(self, size: int) -> None:
        self._framing += size
        if self._framing > MAX_FRAMING:
            raise _too_much()

    def _line(self) -> bytes | None:
        """Return the next line with its end, None until all of it has come."""
        # No longer line is taken, so that looking for its end again and again stays cheap.
        end = self._buffer.find(b"\n", self._at, self._at + MAX_HEAD + 1)
        return None if end < 0 else self._take(end + 1 - self._at)

    def _take(self, size: int) -> bytes:
        begin, self._at = self._at, self._at + size
        taken = self._buffer[begin : self._at]
        if self._at == len(self._buffer):
            self._buffer, self._at = b"", 0
        return taken


def _bad_chunk() -> BadRequestError:
    return BadRequestError("A chunk of the body does not have the form of RFC 9112.")


def _too_much() -> BadRequestError:
    return BadRequestError(f"Chunk extensions and trailers have more than {MAX_FRAMING} bytes.", 431)

"""What an HTTP/1.1 answer is made of: the lines of its head, and chunks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus

from app.wire.request_head import TOKEN

Headers = Iterable[tuple[bytes, bytes]]
"""Names and values."""

CLOSE = b"connection: close\r\n"
"""The line that says that a connection ends with this answer."""

_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


def phrase(status: int) -> bytes:
    """Return what HTTP calls a status; nothing for one that it does not know."""
    return _PHRASES.get(status, b"")


@lru_cache(maxsize=256)
def status_line(status: int) -> bytes:
    """Return the first line of a response."""
    return b"HTTP/1.1 %d %b\r\n" % (status, phrase(status))


@lru_cache(maxsize=128)  # most lines of most answers are those of the one before; more would be those of the past
def header_line(name: bytes, value: bytes) -> bytes:
    """Return one line. Raises ValueError for a header that HTTP does not allow."""
    if not TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
        msg = f"header {name!r} has characters that HTTP does not allow"
        raise ValueError(msg)
    return b"%b: %b\r\n" % (name, value)


def forget_lines() -> None:
    """Forget the lines of past responses: each keeps the memory around it from being returned to the system."""
    header_line.cache_clear()


def header_lines(headers: Headers) -> bytes:
    """Return the lines of headers, and the empty one behind them. Raises ValueError as :func:`header_line`."""
    return b"".join([*(header_line(name, value) for name, value in headers), b"\r\n"])


def chunk(data: bytes) -> bytes:
    """Return ``data`` as one chunk of an HTTP/1.1 body (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)

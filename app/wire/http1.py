"""What an HTTP/1.1 response is made of: the lines of its head, and chunks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

from app.wire.request_head import TOKEN

Headers = Iterable[tuple[bytes, bytes]]
"""Names and values."""

CLOSE = b"connection: close\r\n"
"""The line that says that a connection ends with this response."""

WITHOUT_BODY = (204, 304)
"""Statuses whose responses have no body."""

CHUNKED = b"transfer-encoding: chunked\r\n"
"""The line that says that a body comes in chunks."""

_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


class HeaderBlock(NamedTuple):
    """Headers as they are sent, and what they say of the body and the connection."""

    lines: bytes
    length: int | None
    """Bytes of the body by Content-Length; None where there is none."""
    closes: bool
    """Whether the connection ends with the response; the line that says so is not among the lines."""


def header_block(headers: Headers) -> HeaderBlock:
    """Read the headers of a response. Raises ValueError as :func:`header_line`.

    How a body ends is the server's business: what they say of that, but for Content-Length, is left out.
    """
    lines = []
    length, closes = None, False
    for name, value in headers:
        lower = name.lower()
        if lower == b"connection" and b"close" in value.lower():
            closes = True
        elif lower != b"transfer-encoding":
            lines.append(header_line(lower, value))
            if lower == b"content-length":
                length = int(value)
    return HeaderBlock(b"".join(lines), length, closes)


known_block = lru_cache(maxsize=64)(header_block)
"""The same for a tuple of headers that comes again and again, as the server's own do."""


def response_head(status: int, lines: bytes, *, keep_alive: bool) -> bytes:
    """Return the head of a response, which says whether another may follow on the connection."""
    return b"%b%b%b\r\n" % (status_line(status), lines, b"" if keep_alive else CLOSE)


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


def header_lines(headers: Headers) -> bytes:
    """Return the lines of headers, and the empty one behind them. Raises ValueError as :func:`header_line`."""
    return b"".join([*(header_line(name, value) for name, value in headers), b"\r\n"])


def chunk(data: bytes) -> bytes:
    """Return ``data`` as one chunk of an HTTP/1.1 body (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)

"""What an HTTP/1.1 response is made of: its header lines and its chunks."""

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
"""The header line that ends the connection after this response."""

CHUNKED = b"transfer-encoding: chunked\r\n"
"""The header line of a body that comes in chunks."""

WITHOUT_BODY = (204, 304)
"""Statuses whose responses have no body."""

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
    """Return the reason phrase of a status; empty for one that HTTP does not know."""
    return _PHRASES.get(status, b"")


@lru_cache(maxsize=256)
def status_line(status: int) -> bytes:
    """Return the first line of a response."""
    return b"HTTP/1.1 %d %b\r\n" % (status, phrase(status))


@lru_cache(maxsize=128)  # most responses repeat the lines of the one before
def header_line(name: bytes, value: bytes) -> bytes:
    """Return one header line. Raises ValueError for a header that HTTP does not allow."""
    if not TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
        msg = f"header {name!r} has characters that HTTP does not allow"
        raise ValueError(msg)
    return b"%b: %b\r\n" % (name, value)


def forget_lines() -> None:
    """Forget the lines of past responses: each keeps the memory around it from being returned to the system."""
    header_line.cache_clear()
    known_block.cache_clear()


def header_lines(headers: Headers) -> bytes:
    """Return header lines and the empty line behind them. Raises ValueError as :func:`header_line` does."""
    return b"".join([*(header_line(name, value) for name, value in headers), b"\r\n"])


LAST_CHUNK = b"0\r\n\r\n"
"""The chunk that ends a body, without trailers."""


def chunk(data: bytes) -> bytes:
    """Return ``data``, which is not empty, as one chunk of an HTTP/1.1 body (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)

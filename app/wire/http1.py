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

_CHUNKED = b"transfer-encoding: chunked\r\n"
_END = b"\r\n"
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


class ResponseHead(NamedTuple):
    """The head of a response as it is sent, and what it says of the rest."""

    data: bytes
    length: int | None
    """Bytes of the body by Content-Length; None where it has none."""
    keep_alive: bool
    """Whether another response may follow on the connection."""


def response_head(status: int, headers: Headers, *, keep_alive: bool, chunked: bool = False) -> ResponseHead:
    """Frame the head of a response.

    How a body ends is the server's business: a Transfer-Encoding among ``headers`` is left out, and a body without a
    Content-Length comes in chunks where ``chunked`` allows it. The connection ends with the response unless both
    ``keep_alive`` and the headers say otherwise. Raises ValueError as :func:`header_line`.
    """
    lines = [status_line(status)]
    length = None
    for name, value in headers:
        line, closes, size = _understood(name, value)
        lines.append(line)
        if closes:
            keep_alive = False
        elif size is not None:
            length = size
    if chunked and length is None:
        lines.append(_CHUNKED)
    if not keep_alive:
        lines.append(CLOSE)
    lines.append(_END)
    return ResponseHead(b"".join(lines), length, keep_alive)


def phrase(status: int) -> bytes:
    """Return what HTTP calls a status; nothing for one that it does not know."""
    return _PHRASES.get(status, b"")


@lru_cache(maxsize=256)
def status_line(status: int) -> bytes:
    """Return the first line of a response."""
    return b"HTTP/1.1 %d %b\r\n" % (status, phrase(status))


@lru_cache(maxsize=128)  # most lines of most answers are those of the one before; more would be those of the past
def _understood(name: bytes, value: bytes) -> tuple[bytes, bool, int | None]:
    """Return the line of a header, whether it ends the connection, and the length of the body if it says one.

    Of a header that says what the server decides itself, the line is empty.
    """
    name = name.lower()
    if name == b"connection" and b"close" in value.lower():
        return b"", True, None
    if name == b"transfer-encoding":
        return b"", False, None
    return header_line(name, value), False, int(value) if name == b"content-length" else None


def header_line(name: bytes, value: bytes) -> bytes:
    """Return one line. Raises ValueError for a header that HTTP does not allow."""
    if not TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
        msg = f"header {name!r} has characters that HTTP does not allow"
        raise ValueError(msg)
    return b"%b: %b\r\n" % (name, value)


def header_lines(headers: Headers) -> bytes:
    """Return the lines of headers, and the empty one behind them. Raises ValueError as :func:`header_line`."""
    return b"".join([*(header_line(name, value) for name, value in headers), _END])


def chunk(data: bytes) -> bytes:
    """Return ``data`` as one chunk of an HTTP/1.1 body (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)

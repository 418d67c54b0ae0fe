"""The heads of HTTP messages without I/O: what a request's target says, and a response's lines."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import unquote

import httptools

Headers = Iterable[tuple[bytes, bytes]]
"""Names and values."""

CLOSE = b"connection: close\r\n"
"""The line that says that a connection ends with this answer."""

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


class Target(NamedTuple):
    """What a request asks for; ``path`` is decoded."""

    path: str
    raw_path: bytes
    query: bytes


def target(url: bytes) -> Target:
    """Take a request's target apart. Raises ValueError for one that is none."""
    if url.startswith(b"/") and b"#" not in url:
        raw_path, _, query = url.partition(b"?")
    else:
        try:
            parsed = httptools.parse_url(url)
        except httptools.HttpParserInvalidURLError as error:
            raise ValueError(str(error)) from None
        raw_path, query = parsed.path or b"/", parsed.query or b""
    path = raw_path.decode("ascii")
    return Target(unquote(path) if "%" in path else path, raw_path, query)


def phrase(status: int) -> bytes:
    """Return what HTTP calls a status; nothing for one that it does not know."""
    return _PHRASES.get(status, b"")


@lru_cache(maxsize=256)
def status_line(status: int) -> bytes:
    """Return the first line of a response."""
    return b"HTTP/1.1 %d %b\r\n" % (status, phrase(status))


@lru_cache(maxsize=512)  # most lines of most answers are those of the one before
def header_line(name: bytes, value: bytes) -> bytes:
    """Return one line. Raises ValueError for a header that HTTP does not allow."""
    if not TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
        msg = f"header {name!r} has characters that HTTP does not allow"
        raise ValueError(msg)
    return b"%b: %b\r\n" % (name, value)


def header_lines(headers: Headers) -> bytes:
    """Return the lines of headers, and the empty one behind them. Raises ValueError as :func:`header_line`."""
    return b"".join([*(header_line(name, value) for name, value in headers), b"\r\n"])

"""The opening handshake of RFC 6455 without I/O: what a request must have, and the answers to it."""

from __future__ import annotations

import binascii
import hashlib
import re
from base64 import b64encode
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import unquote

import httptools

Headers = Iterable[tuple[bytes, bytes]]
"""Names in lower case, and values."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_SIZE = 16
_VERSION = b"13"
_ONCE = frozenset({b"host", b"sec-websocket-key", b"sec-websocket-version"})
_CHECKED = _ONCE | {b"sec-websocket-protocol", b"content-length", b"transfer-encoding"}
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


class Request(NamedTuple):
    """A request for an upgrade, as the HTTP parser left it; ``rest`` is what came after it."""

    method: bytes
    http_version: str
    url: bytes
    headers: list[tuple[bytes, bytes]]
    tls: bool
    client: tuple[str, int] | None
    server: tuple[str, int | None] | None
    rest: bytes


class RefusalError(Exception):
    """The request is no valid handshake; ``str(error)`` says why, in ASCII."""

    def __init__(self, why: str, status: int = 400, headers: Headers = ()) -> None:
        super().__init__(why)
        self.status = status
        self.headers = headers


def check(request: Request) -> tuple[bytes, list[str]]:
    """Return the key and the subprotocols that are offered. Raises :class:`RefusalError`.

    That the request asks to upgrade to ``websocket`` has been checked.
    """
    if request.method != b"GET" or request.http_version != "1.1":
        msg = "A WebSocket is opened by GET over HTTP/1.1."
        raise RefusalError(msg)
    found: dict[bytes, list[bytes]] = {}
    for name, value in request.headers:
        if name in _CHECKED:
            found.setdefault(name, []).append(value.strip())
    for name, values in found.items():
        if len(values) > 1 and name in _ONCE:
            msg = f"More than one {name.decode()} header."
            raise RefusalError(msg)
    if b"host" not in found:
        msg = "No host header."
        raise RefusalError(msg)
    if b"transfer-encoding" in found or set(found.get(b"content-length", ())) - {b"0"}:
        msg = "A request for a WebSocket has no body."
        raise RefusalError(msg)
    if found.get(b"sec-websocket-version") != [_VERSION]:
        msg = "The server speaks version 13 of the WebSocket protocol."
        raise RefusalError(msg, 426, [(b"upgrade", b"websocket"), (b"sec-websocket-version", _VERSION)])
    return _key(found), _subprotocols(found.get(b"sec-websocket-protocol", ()))


def scope(request: Request, asgi_version: str, root_path: str, subprotocols: list[str]) -> dict[str, Any]:
    """Return the ASGI scope without its state and its extensions. Raises :class:`RefusalError`."""
    try:
        url = httptools.parse_url(request.url)
        raw_path = url.path or b"/"
        path = raw_path.decode("ascii")
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
        msg = "Invalid URL."
        raise RefusalError(msg) from None
    return {
        "type": "websocket",
        "asgi": {"version": asgi_version, "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "wss" if request.tls else "ws",
        "server": request.server,
        "client": request.client,
        "root_path": root_path,
        "path": root_path + (unquote(path) if "%" in path else path),
        "raw_path": root_path.encode("ascii") + raw_path,
        "query_string": url.query or b"",
        "headers": request.headers,
        "subprotocols": subprotocols,
    }


def switching(key: bytes, headers: Headers, subprotocol: str | None) -> bytes:
    """Return the response that opens the WebSocket. Raises ValueError for headers that HTTP does not allow."""
    digest = hashlib.sha1(key + _GUID, usedforsecurity=False).digest()
    lines = [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
        b64encode(digest),
        b"\r\n",
    ]
    if subprotocol is not None:
        headers = [*headers, (b"sec-websocket-protocol", subprotocol.encode())]
    _append_headers(lines, headers)
    return b"".join(lines)


def response(status: int, headers: Headers, body: bytes) -> bytes:
    """Return a response that ends the connection. Raises ValueError for headers that HTTP does not allow."""
    lines = [b"HTTP/1.1 %d %b\r\nconnection: close\r\ncontent-length: %d\r\n" % (status, _phrase(status), len(body))]
    ours = (b"connection", b"content-length", b"transfer-encoding")
    _append_headers(lines, [(name, value) for name, value in headers if name.lower() not in ours])
    lines.append(body)
    return b"".join(lines)


def text_response(status: int, headers: Headers, text: str | None = None) -> bytes:
    """Return such a response with a line of plain text: the status's own phrase if none is given."""
    body = _phrase(status) if text is None else text.encode("ascii")
    return response(status, [*headers, (b"content-type", b"text/plain; charset=utf-8")], body)


def _key(found: dict[bytes, list[bytes]]) -> bytes:
    (key,) = found.get(b"sec-websocket-key", (b"",))
    try:
        size = len(binascii.a2b_base64(key, strict_mode=True))
    except binascii.Error:
        size = 0
    if size != _KEY_SIZE:
        msg = "The sec-websocket-key header is not 16 bytes in base64."
        raise RefusalError(msg)
    return key


def _subprotocols(values: Iterable[bytes]) -> list[str]:
    offered = [token for value in values for token in map(bytes.strip, value.split(b",")) if token]
    if not all(map(_TOKEN.fullmatch, offered)) or len(set(offered)) < len(offered):
        msg = "The sec-websocket-protocol header is not a list of different tokens."
        raise RefusalError(msg)
    return [token.decode("ascii") for token in offered]


def _append_headers(lines: list[bytes], headers: Headers) -> None:
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            msg = f"header {name!r} has characters that HTTP does not allow"
            raise ValueError(msg)
        lines += (name, b": ", value, b"\r\n")
    lines.append(b"\r\n")


def _phrase(status: int) -> bytes:
    return _PHRASES.get(status, b"")

"""The opening handshake of a WebSocket (RFC 6455 §4) without I/O: what the request must have, and the responses."""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from app.wire.http1 import Headers, header_lines, phrase, status_line
from app.wire.request_head import TOKEN, RequestHead

LAST = (b"connection", b"close")
"""The header of a connection's last answer; while the server drains, one of its default headers."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_SIZE = 16
_VERSION = b"13"
_SWITCHING = status_line(101) + b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
_ONCE = frozenset({b"sec-websocket-key", b"sec-websocket-version"})
_CHECKED = _ONCE | {b"sec-websocket-protocol"}


class UpgradeRequest(NamedTuple):
    """A request that asks for a WebSocket; ``rest`` is the bytes that came behind it."""

    head: RequestHead
    tls: bool
    client: tuple[str, int] | None
    server: tuple[str, int | None] | None
    rest: bytes


class RefusalError(Exception):
    """The request is not answered, or is not a valid handshake; ``str(error)`` says why, in ASCII."""

    def __init__(self, why: str, status: int = 400, headers: Headers = ()) -> None:
        super().__init__(why)
        self.status = status
        self.headers = headers


def check_server(default_headers: Headers) -> None:
    """Raise :class:`RefusalError` while the server drains, which its default headers tell."""
    if LAST in default_headers:
        msg = "The server restarts."
        raise RefusalError(msg, 503, [(b"retry-after", b"1")])


def check(request: UpgradeRequest) -> tuple[bytes, list[str]]:
    """Return the key and the subprotocols that the client offers. Raises :class:`RefusalError`.

    The caller has checked that the request asks to upgrade to ``websocket``.
    """
    if request.head.method != b"GET" or request.head.version != "1.1":
        msg = "A WebSocket is opened by GET over HTTP/1.1."
        raise RefusalError(msg)
    found: dict[bytes, list[bytes]] = {}
    for name, value in request.head.headers:
        if name in _CHECKED:
            found.setdefault(name, []).append(value)
    for name, values in found.items():
        if len(values) > 1 and name in _ONCE:
            msg = f"More than one {name.decode()} header."
            raise RefusalError(msg)
    if request.head.length != 0:
        msg = "A request for a WebSocket has no body."
        raise RefusalError(msg)
    if found.get(b"sec-websocket-version") != [_VERSION]:
        msg = "The server speaks version 13 of the WebSocket protocol."
        raise RefusalError(msg, 426, [(b"upgrade", b"websocket"), (b"sec-websocket-version", _VERSION)])
    return _key(found), _subprotocols(found.get(b"sec-websocket-protocol", ()))


def scope(request: UpgradeRequest, asgi_version: str, root_path: str, subprotocols: list[str]) -> dict[str, Any]:
    """Return the ASGI scope, without its state and its extensions."""
    path, raw_path, query = request.head.target
    return {
        "type": "websocket",
        "asgi": {"version": asgi_version, "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "wss" if request.tls else "ws",
        "server": request.server,
        "client": request.client,
        "root_path": root_path,
        "path": root_path + path,
        "raw_path": root_path.encode("ascii") + raw_path,
        "query_string": query,
        "headers": request.head.headers,
        "subprotocols": subprotocols,
    }


def accepting(key: bytes, lines: bytes) -> bytes:
    """Return the response that opens the WebSocket; ``lines`` are of :func:`accepting_lines`."""
    digest = hashlib.sha1(key + _GUID, usedforsecurity=False).digest()
    return b"%bSec-WebSocket-Accept: %b%b" % (_SWITCHING, binascii.b2a_base64(digest, newline=False), lines)


def accepting_lines(headers: Headers, subprotocol: str | None) -> bytes:
    """Return what follows the key in such a response. Raises ValueError for headers that HTTP does not allow."""
    if subprotocol is not None:
        headers = [*headers, (b"sec-websocket-protocol", subprotocol.encode())]
    return b"\r\n" + header_lines(header for header in headers if header != LAST)


def is_key(key: bytes) -> bool:
    """Whether the value of Sec-WebSocket-Key is one."""
    try:
        return len(binascii.a2b_base64(key, strict_mode=True)) == _KEY_SIZE
    except binascii.Error:
        return False


def response(status: int, headers: Headers, body: bytes) -> bytes:
    """Return a response that ends the connection. Raises ValueError for headers that HTTP does not allow."""
    ours = (b"connection", b"content-length", b"transfer-encoding")
    theirs = header_lines((name, value) for name, value in headers if name.lower() not in ours)
    return b"%bconnection: close\r\ncontent-length: %d\r\n%b%b" % (status_line(status), len(body), theirs, body)


def text_response(status: int, headers: Headers, text: str | None = None) -> bytes:
    """Return a :func:`response` with a line of plain text, by default the phrase of the status."""
    body = phrase(status) if text is None else text.encode("ascii")
    return response(status, [*headers, (b"content-type", b"text/plain; charset=utf-8")], body)


def _key(found: dict[bytes, list[bytes]]) -> bytes:
    (key,) = found.get(b"sec-websocket-key", (b"",))
    if not is_key(key):
        msg = "The sec-websocket-key header is not 16 bytes in base64."
        raise RefusalError(msg)
    return key


def _subprotocols(values: Iterable[bytes]) -> list[str]:
    offered = [token for value in values for token in map(bytes.strip, value.split(b",")) if token]
    if not all(map(TOKEN.fullmatch, offered)) or len(set(offered)) < len(offered):
        msg = "The sec-websocket-protocol header is not a list of different tokens."
        raise RefusalError(msg)
    return [token.decode("ascii") for token in offered]

"""The opening handshake: which requests become WebSockets, and what the application learns of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.local import LocalServer
from tests.support.wire import ACCEPT, TEXT, Wire, frame, request


class App:
    """Accepts every WebSocket and echoes one message; keeps the last scope. Answers HTTP with 200."""

    scope: dict[str, Any]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 — ASGI's
        self.scope = scope
        await receive()
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        chosen = scope["subprotocols"][-1] if scope["subprotocols"] else None
        await send({"type": "websocket.accept", "subprotocol": chosen, "headers": [(b"x-app", b"yes")]})
        await send({"type": "websocket.send", "text": (await receive())["text"]})


app = App()


@pytest.fixture(scope="module")
def local() -> Iterator[LocalServer]:
    """Serve the application below a path of a proxy."""
    with LocalServer(app, root_path="/below") as server:
        yield server


@pytest.fixture
def wire(local: LocalServer) -> Iterator[Wire]:
    """Connect."""
    with Wire(local.port) as wire:
        yield wire


def test_a_handshake_is_accepted_as_the_rfc_says(wire: Wire) -> None:
    """Server answers the RFC's example as the RFC does, with the application's headers."""
    wire.send(request("/"))
    head = wire.read_head().split(b"\r\n")
    assert head[:4] == [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + ACCEPT,
    ]
    assert b"x-app: yes" in head
    assert not any(line.lower().startswith((b"sec-websocket-ex", b"sec-websocket-pr")) for line in head)


def test_the_scope_says_what_asgi_says(wire: Wire) -> None:
    """Application learns of the request what ASGI says."""
    wire.send(request("/a%2Fb?x=%20y", add=("Sec-WebSocket-Protocol: one, two", "Sec-WebSocket-Protocol: three")))
    assert b"sec-websocket-protocol: three" in wire.read_head()
    scope = dict(app.scope)
    headers = scope.pop("headers")
    assert (b"sec-websocket-version", b"13") in headers
    assert len(headers) == 7
    assert set(scope.pop("extensions")) == {"websocket.http.response", "abide.fanout"}
    assert scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "server": wire.socket.getpeername(),
        "client": wire.socket.getsockname(),
        "root_path": "/below",
        "path": "/below/a/b",
        "raw_path": b"/below/a%2Fb",
        "query_string": b"x=%20y",
        "subprotocols": ["one", "two", "three"],
        "state": {},
    }


@pytest.mark.parametrize(
    "sent",
    [
        request("/", drop=("Upgrade",), add=("Upgrade: WebSocket",)),
        request("/", drop=("Connection",), add=("Connection: keep-alive, Upgrade",)),
        request("/", drop=("Connection",), add=("Connection: upgrade", "Connection: keep-alive")),
        request("/", add=("Sec-WebSocket-Extensions: permessage-deflate",)),
        request("/", add=("Content-Length: 0",)),
        request("/", line="GET http://abide HTTP/1.1"),
    ],
    ids=["case", "list", "two headers", "extension", "empty body", "absolute URL"],
)
def test_other_spellings_of_a_handshake_are_accepted(wire: Wire, sent: bytes) -> None:
    """Server accepts a handshake that says the same in another way."""
    wire.send(sent)
    head = wire.read_head()
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"extensions" not in head.lower()


@pytest.mark.parametrize(
    ("sent", "status", "text"),
    [
        (request("/", line="POST / HTTP/1.1"), 400, b"opened by GET over HTTP/1.1"),
        (request("/", line="GET / HTTP/1.0"), 400, b"opened by GET over HTTP/1.1"),
        (request("/", drop=("Host",)), 400, b"one Host header"),
        (request("/", add=("Host: other",)), 400, b"one Host header"),
        (request("/", drop=("Sec-WebSocket-Key",)), 400, b"not 16 bytes"),
        (request("/", drop=("Sec-WebSocket-Key",), add=("Sec-WebSocket-Key:",)), 400, b"not 16 bytes"),
        (request("/", drop=("Sec-WebSocket-Key",), add=("Sec-WebSocket-Key: c2hvcnQ=",)), 400, b"not 16 bytes"),
        (request("/", drop=("Sec-WebSocket-Key",), add=("Sec-WebSocket-Key: " + "!" * 24,)), 400, b"not 16 bytes"),
        (request("/", add=("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",)), 400, b"More than one sec-websocket-key"),
        (request("/", drop=("Sec-WebSocket-Version",)), 426, b"version 13"),
        (request("/", drop=("Sec-WebSocket-Version",), add=("Sec-WebSocket-Version: 8",)), 426, b"version 13"),
        (request("/", add=("Sec-WebSocket-Version: 13",)), 400, b"More than one sec-websocket-version"),
        (request("/", add=("Sec-WebSocket-Protocol: a, a",)), 400, b"list of different tokens"),
        (request("/", add=("Sec-WebSocket-Protocol: a b",)), 400, b"list of different tokens"),
        (request("/", add=("Content-Length: 4",)) + b"body", 400, b"no body"),
        (request("/", add=("Transfer-Encoding: chunked",)) + b"0\r\n\r\n", 400, b"no body"),
        (request("/", line="GET no-slash HTTP/1.1"), 400, b"neither a path nor a URL"),
        (request("/\xff"), 400, b"not of the form"),
    ],
)
def test_a_wrong_handshake_is_refused_with_its_reason(wire: Wire, sent: bytes, status: int, text: bytes) -> None:
    """Server refuses a handshake that is not the RFC's, says why, and closes."""
    wire.send(sent)
    head = wire.read_head()
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in head
    assert (b"sec-websocket-version: 13" in head) is (status == 426)
    assert text in wire.read_rest()


@pytest.mark.parametrize(
    "sent",
    [
        request("/", drop=("Connection",)),
        request("/", drop=("Upgrade",), add=("Upgrade: h2c",)),
        request("/", drop=("Upgrade",)),
    ],
    ids=["no connection", "another upgrade", "no upgrade"],
)
def test_a_request_that_asks_for_no_websocket_is_plain_http(wire: Wire, sent: bytes) -> None:
    """Server takes a request that does not ask for a WebSocket for one of plain HTTP."""
    wire.send(sent)
    assert wire.read_head().startswith(b"HTTP/1.1 200 ")


def test_a_websocket_may_follow_another_request(wire: Wire) -> None:
    """Server opens a WebSocket on a connection that was kept alive."""
    wire.send(request("/", drop=("Upgrade",)))
    assert wire.read_head().startswith(b"HTTP/1.1 200 ")
    wire.send(request("/"))
    assert wire.read_head().startswith(b"HTTP/1.1 101 ")
    wire.send(frame(TEXT, b"x"))
    assert wire.read_frame() == (TEXT, b"x")


def test_a_websocket_opens_when_the_request_before_it_is_answered(wire: Wire) -> None:
    """Server opens a WebSocket that was asked for behind another request when that has been answered."""
    wire.send(request("/", drop=("Upgrade",)) + request("/") + frame(TEXT, b"x"))
    assert wire.read_head().startswith(b"HTTP/1.1 200 ")
    assert wire.read_head().startswith(b"HTTP/1.1 101 ")
    assert wire.read_frame() == (TEXT, b"x")


def test_a_handshake_may_come_byte_by_byte(wire: Wire) -> None:
    """Server takes a handshake that comes byte by byte."""
    wire.send(request("/"), size=1)
    assert wire.read_head().startswith(b"HTTP/1.1 101 ")


def test_frames_that_come_with_the_handshake_are_kept(wire: Wire) -> None:
    """Server keeps frames that came with the handshake until it is answered."""
    wire.send(request("/") + frame(TEXT, b"early"))
    assert wire.read_head().startswith(b"HTTP/1.1 101 ")
    assert wire.read_frame() == (TEXT, b"early")

"""What a proxy says of its client: read as uvicorn reads it, for requests, pushes and WebSockets alike."""

from __future__ import annotations

from typing import Any

import pytest
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app.core.ports import DIRECT
from app.server.http.forwarded import TrustedProxies
from tests.support.local import LocalServer
from tests.support.reading.echo import Echo, EchoDirect
from tests.support.wire import Wire, request

ALLOWED: list[str | list[str]] = [
    "127.0.0.1",
    "127.0.0.1, ::1",
    ["10.0.0.0/8", "127.0.0.1", "2001:db8::/32"],
    "*",
    ["*"],
    "",
    "192.0.2.1",
    "10.0.0.1/8, 127.0.0.1",
    "proxy, 127.0.0.1",
]
SAID = [
    (),
    ("x-forwarded-for: 192.0.2.7",),
    ("x-forwarded-for: 192.0.2.7, 198.51.100.9", "x-forwarded-proto: https"),
    ("x-forwarded-for: 192.0.2.7", "x-forwarded-for: 10.1.2.3", "x-forwarded-proto: http"),
    ("x-forwarded-for: 10.0.0.1, 10.0.0.2", "x-forwarded-proto: wss"),
    ("x-forwarded-for: 127.0.0.1, proxy",),
    ("x-forwarded-for: [2001:db8::7]:81, [::1]",),
    ("x-forwarded-for: 192.0.2.7:4711, 127.0.0.1:80",),
    ("x-forwarded-for: 2001:db8::1, 203.0.113.1:abc",),
    ("x-forwarded-for: [192.0.2.7", "x-forwarded-proto: ftp"),
    ("x-forwarded-for: ", "x-forwarded-proto: https "),
    ("x-forwarded-for: 192.0.2.7,",),
    ("x-forwarded-for: 192.0.2.7, unknown", "x-forwarded-proto: https", "x-forwarded-proto: http"),
]
PEERS = ["127.0.0.1", "192.0.2.1", "10.9.9.9", "::1", "proxy", ""]


async def by_uvicorn(allowed: str | list[str], peer: str, headers: list[tuple[bytes, bytes]]) -> tuple[Any, str]:
    """Return the client and the scheme that uvicorn's middleware makes of a plain WebSocket's."""
    scope: Any = {"type": "websocket", "client": (peer, 1) if peer else None, "scheme": "ws", "headers": headers}

    async def application(*_: object) -> None:
        pass

    callables: Any = (None, None)
    await ProxyHeadersMiddleware(application, allowed)(scope, *callables)
    return scope["client"], scope["scheme"]


@pytest.mark.parametrize("allowed", ALLOWED, ids=str)
async def test_a_proxy_is_read_as_by_uvicorn(allowed: str | list[str]) -> None:
    """Server believes the same peers as uvicorn does, and takes the same for the client and its scheme."""
    proxies = TrustedProxies(tuple(allowed.split(",") if isinstance(allowed, str) else allowed))
    for said in SAID:
        headers = [(name.encode(), value.encode()) for name, value in (line.split(": ") for line in said)]
        for peer in PEERS:
            client, is_tls = (peer, 1) if peer else None, False
            if proxies.trust(peer or None):
                forwarded = proxies.read(headers)
                client, is_tls = forwarded.client or client, forwarded.is_tls or False
            expected = await by_uvicorn(allowed, peer, headers)
            assert (client, "wss" if is_tls else "ws") == expected, (said, peer)


class Clients(Echo):
    """An echo that notes who has sent what, and by which scheme."""

    def __init__(self) -> None:
        super().__init__()
        self.schemes: set[str] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 — ASGI's
        if scope["type"] != "lifespan":
            self.schemes.add(scope["scheme"])
            await super().__call__(scope, receive, send)
            return
        await receive()
        scope["state"][DIRECT] = EchoDirect(self)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


@pytest.mark.parametrize(
    ("allowed", "client", "schemes"),
    [("127.0.0.0/8", "192.0.2.7", {"https", "wss"}), ("192.0.2.1", "127.0.0.1", {"http", "ws"})],
    ids=["trusted", "not trusted"],
)
def test_every_kind_of_request_has_the_client_that_a_proxy_names(allowed: str, client: str, schemes: set[str]) -> None:
    """Request, push, push with a known head and WebSocket are the client's that a trusted proxy names."""
    said = "x-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: https\r\n"
    post = f"POST /push HTTP/1.1\r\nhost: abide\r\n{said}content-length: 0\r\n\r\n".encode()
    app = Clients()
    with LocalServer(app, lifespan="on", forwarded_allow_ips=allowed) as server:
        with Wire(server.port) as wire:
            for sent in (post, post, post.replace(b"POST", b"GET")):
                wire.send(sent)
                wire.read_until(b"]]]")
        with Wire(server.port) as wire:
            wire.send(request("/", add=tuple(said.split("\r\n")[:2])))
            assert wire.read_head().startswith(b"HTTP/1.1 101 ")
            wire.read_frame()
    assert {host: len(seen) for host, seen in app.seen.items()} == {client: 4}
    assert app.schemes == schemes

"""Handshakes that are decided by their request head alone: opened without ASGI, and nobody can tell the difference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from app.core.ports import DIRECT_SOCKETS, Handover, Heartbeat, Reply
from app.wire.handshake import LAST
from app.wire.request_head import RequestHead
from tests.support.local import LocalServer, Recorder, wait_for
from tests.support.wire import TEXT, Wire, frame, request


class Asked(NamedTuple):
    """A handshake that was to be decided."""

    path: str
    query: bytes
    bearer: bytes | None
    client: str | None


class Opened:
    """A handshake that was accepted."""

    subprotocol = "a.protocol"

    def __init__(self, application: Application) -> None:
        self._application = application

    def begin(self, handover: Handover) -> None:
        peer = Recorder()
        peer.writer = handover(peer, Heartbeat(b"", 3600))
        self._application.peers.append(peer)
        peer.writer.write(frame_of_server(b"hello"))


class Application:
    """Decides handshakes: ``/no`` is refused, and ``/later`` has to wait for ASGI, which accepts it."""

    def __init__(self) -> None:
        self.app: object = self
        self.parsed = 0
        self.asked: list[Asked] = []
        self.peers: list[Recorder] = []
        self.scopes: list[dict[str, Any]] = []

    def parse(self, head: RequestHead, subprotocols: Sequence[str]) -> str | None:
        self.parsed += 1
        return None if "never" in subprotocols else head.target.path

    def admit(self, head: str, query: bytes, bearer: bytes | None, client: str | None) -> Opened | Reply | None:
        self.asked.append(Asked(head, query, bearer, client))
        if head == "/no":
            return Reply(403, ((b"content-type", b"text/plain"),), b"no")
        return None if head == "/later" else Opened(self)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 — ASGI's
        await receive()
        if scope["type"] == "lifespan":
            scope["state"][DIRECT_SOCKETS] = self
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.scopes.append(scope)
        await send({"type": "websocket.accept"})
        await receive()


def frame_of_server(text: bytes) -> bytes:
    """Return a text frame that is not masked."""
    return bytes([0x81, len(text)]) + text


@contextmanager
def serving(**options: Any) -> Iterator[tuple[Application, LocalServer]]:  # noqa: ANN401 — uvicorn's
    """Serve the application."""
    application = Application()
    with LocalServer(application, lifespan="on", **options) as server:
        yield application, server


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Application, LocalServer]]:
    """Serve the application for all tests that leave it as it is."""
    with serving() as both:
        yield both


@pytest.fixture
def local(served: tuple[Application, LocalServer]) -> tuple[Application, LocalServer]:
    """Forget what the server was asked before."""
    application, _ = served
    application.parsed = 0
    for found in (application.asked, application.peers, application.scopes):
        found.clear()
    return served


def test_a_handshake_opens_without_asgi(local: tuple[Application, LocalServer]) -> None:
    """Handshake is accepted with its subprotocol, its first frame follows, and messages come to its peer."""
    application, server = local
    with Wire(server.port) as wire:
        wire.send(request("/a?b=c", add=("Authorization: Bearer x",)))
        head = wire.read_head()
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"\r\nsec-websocket-protocol: a.protocol" in head
        assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
        assert wire.read_frame() == (TEXT, b"hello")
        wire.send(frame(TEXT, b"heard"))
        wait_for(lambda: application.peers[0].messages)
    wait_for(lambda: application.peers[0].codes)
    assert application.asked == [("/a", b"b=c", None, "127.0.0.1")]
    assert application.scopes == []


def test_a_known_head_is_not_parsed_again(local: tuple[Application, LocalServer]) -> None:
    """Handshake with a known head is decided anew, by its own query and credential, and not parsed again."""
    application, server = local
    for number in range(3):
        with Wire(server.port) as wire:
            wire.send(request(f"/known?n={number}", add=(f"Authorization: Bearer {number}",)))
            assert wire.read_head().startswith(b"HTTP/1.1 101 ")
    assert application.parsed == 1
    here = "127.0.0.1"
    assert application.asked == [
        ("/known", b"n=0", None, here),
        *[("/known", b"n=%d" % n, b"%d" % n, here) for n in (1, 2)],
    ]


def test_a_refusal_is_an_answer_that_ends_the_connection(local: tuple[Application, LocalServer]) -> None:
    """Handshake that is refused gets the status and the body, known or not, and the connection ends."""
    for _ in range(2):
        with Wire(local[1].port) as wire:
            wire.send(request("/no"))
            answer = wire.read_rest()
            assert answer.startswith(b"HTTP/1.1 403 ")
            assert answer.endswith(b"\r\n\r\nno")
            assert b"connection: close\r\n" in answer.lower()


@pytest.mark.parametrize(
    "data",
    [request("/later"), request("/a", add=("Sec-WebSocket-Protocol: never",)), request("/a") + frame(TEXT, b"x")],
    ids=["what has to wait", "what the application does not know", "what brings a message"],
)
def test_what_cannot_be_decided_at_once_goes_by_asgi(local: tuple[Application, LocalServer], data: bytes) -> None:
    """Handshake that the application cannot decide at once, or that brings a message, goes by ASGI, known or not."""
    application, server = local
    for _ in range(2):
        with Wire(server.port) as wire:
            wire.send(data)
            assert wire.read_head().startswith(b"HTTP/1.1 101 ")
    assert len(application.scopes) == 2
    assert application.peers == []


def test_a_known_head_with_a_bad_key_is_refused(local: tuple[Application, LocalServer]) -> None:
    """Handshake whose key is not valid is refused, though its head is known."""
    with Wire.open(local[1].port, "/keys"), Wire(local[1].port) as wire:
        wire.send(request("/keys").replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZSBub25jZQ!!"))
        assert wire.read_rest().startswith(b"HTTP/1.1 400 ")


def test_a_known_head_is_refused_while_the_server_drains() -> None:
    """Handshake with a known head is refused with 503 once every answer is the last of its connection."""
    with serving() as (_, server):
        Wire.open(server.port, "/a").socket.close()
        server.server.config.encoded_headers = [LAST]
        wait_for(lambda: LAST in server.server.server_state.default_headers)
        with Wire(server.port) as wire:
            wire.send(request("/a"))
            assert wire.read_rest().startswith(b"HTTP/1.1 503 ")


def test_an_application_that_is_wrapped_sees_every_handshake() -> None:
    """Handshake goes by ASGI where something is around the application that decides."""
    application = Application()
    application.app = object()
    with LocalServer(application, lifespan="on") as server, Wire.open(server.port, "/a"):
        assert application.asked == []
        assert len(application.scopes) == 1


def test_the_client_is_whom_a_trusted_proxy_names() -> None:
    """Client of a handshake is whom a trusted proxy names, and the peer where no proxy is trusted, known or not."""
    add = ("X-Forwarded-For: 192.0.2.7",)
    for trusted, client in (("127.0.0.1", "192.0.2.7"), ("192.0.2.1", "127.0.0.1")):
        with serving(forwarded_allow_ips=trusted) as (application, server):
            for _ in range(2):
                with Wire(server.port) as wire:
                    wire.send(request("/a", add=add))
                    assert wire.read_head().startswith(b"HTTP/1.1 101 ")
            assert [asked.client for asked in application.asked] == [client, client]

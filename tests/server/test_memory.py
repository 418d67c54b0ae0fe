"""What connections keep alive, and what they must not."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from app.core.ports import Heartbeat
from app.server.http.connection import HttpProtocol
from app.server.http.exchange import Exchange
from app.server.lasting.asgi_websocket import AsgiWebSocket
from app.server.lasting.stream import StreamProtocol
from app.server.lasting.websocket import WebSocketProtocol
from app.wire.frames import FrameReader
from tests.support.local import Detached, LocalServer, Streaming, wait_for
from tests.support.wire import CONTINUATION, TEXT, Wire, frame, request

app = Detached()


@pytest.fixture(scope="module")
def local() -> Iterator[LocalServer]:
    """Serve the application that hands over."""
    with LocalServer(app) as server:
        yield server


Counted = Callable[[], dict[str, int]]


@pytest.fixture
def kept() -> Iterator[Counted]:
    """Switch the cycle collector off, and return what counts the objects made since then that live."""
    app.peers.clear()
    gc.collect()
    gc.disable()
    kinds = (WebSocketProtocol, StreamProtocol, HttpProtocol, Exchange, AsgiWebSocket, FrameReader)

    def count() -> Counter[str]:
        return Counter(kind.__name__ for kind in kinds for one in gc.get_objects() if issubclass(type(one), kind))

    before = count()
    yield lambda: dict(count() - before)
    gc.enable()


def test_an_idle_connection_holds_nothing_of_its_past(local: LocalServer, kept: Counted) -> None:
    """Connection that is idle holds nothing of its handshake and of past messages, with no help of the collector."""
    with contextlib.ExitStack() as wires:
        for _ in range(10):
            wire, peer = app.open(local)
            wires.enter_context(wire)
            wire.send(frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b"))
            wait_for(lambda peer=peer: peer.messages)  # type: ignore[misc]
        wait_for(lambda: not local.server.server_state.tasks)
        assert kept() == {"WebSocketProtocol": 10}
    wait_for(lambda: not local.connections)
    app.peers.clear()
    del peer
    wait_for(lambda: kept() == {})


def test_a_lasting_response_holds_nothing_of_its_request(kept: Counted) -> None:
    """Response that was handed over holds nothing of its request, with no help of the collector."""
    streaming = Streaming(Heartbeat(b"", 3600))
    with LocalServer(streaming) as server:
        with contextlib.ExitStack() as wires:
            for _ in range(10):
                wire = wires.enter_context(streaming.open(server)[0])
                wire.send(b"GET /another HTTP/1.1\r\n")
            wait_for(lambda: not server.server.server_state.tasks)
            assert kept() == {"StreamProtocol": 10}
        wait_for(lambda: not server.connections)
        streaming.peers.clear()
        wait_for(lambda: kept() == {})


def test_a_refused_handshake_leaves_nothing_behind(local: LocalServer, kept: Counted) -> None:
    """Handshake that is refused leaves nothing, with no help of the collector."""
    with Wire(local.port) as wire:
        wire.send(request("/", drop=("Sec-WebSocket-Key",)))
        assert b"400" in wire.read_rest()
    wait_for(lambda: kept() == {})

"""What we rely on in uvicorn and do not import: an upgrade that breaks it fails here, and says what."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from app.server.http import server_state as ours
from app.server.http.connection import HttpProtocol
from app.server.lasting.websocket import WebSocketProtocol
from tests.support.local import GET, LocalServer
from tests.support.wire import TEXT, Wire, frame


async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 — ASGI's
    """Do nothing."""


@pytest.fixture
def config() -> Config:
    """Return a configuration that has our classes."""
    config = Config(app, http=HttpProtocol, ws=WebSocketProtocol, log_config=None)
    config.load()
    return config


def test_uvicorn_makes_our_protocol_as_its_own() -> None:
    """Server of uvicorn makes our HTTP protocol as it makes its own."""
    assert list(inspect.signature(H11Protocol).parameters) == list(inspect.signature(HttpProtocol).parameters)


def test_uvicorn_tells_addresses_and_encryption() -> None:
    """Helpers of uvicorn tell a transport's addresses, and whether it is encrypted."""
    for function in (get_local_addr, get_remote_addr, is_ssl):
        assert list(inspect.signature(function).parameters) == ["transport"]


def test_uvicorns_config_has_what_we_ask_for(config: Config) -> None:
    """Configuration of uvicorn has what our protocols ask it for."""
    assert config.loaded
    assert config.timeout_keep_alive > 0
    assert config.ws_protocol_class is WebSocketProtocol
    assert config.http_protocol_class is HttpProtocol
    assert callable(config.loaded_app)
    assert config.asgi_version == "3.0"
    assert config.root_path == ""
    assert config.ws_max_size > 0
    assert (config.ws_ping_interval, config.ws_ping_timeout) == (20.0, 20.0)


def test_uvicorns_state_can_become_ours() -> None:
    """State of uvicorn has the sets and headers that connections share, and can become one of ours."""
    state = ServerState()
    assert (state.connections, state.tasks, state.default_headers, state.total_requests) == (set(), set(), [], 0)
    state.__class__ = ours.ServerState


def test_connections_under_the_server_of_uvicorn_share_one_state() -> None:
    """Server of uvicorn that has only our HTTP protocol serves requests and WebSockets, which share one state."""

    async def application(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 — ASGI's
        await (echo if scope["type"] == "websocket" else answer)(receive, send)

    async def echo(receive: Any, send: Any) -> None:  # noqa: ANN401 — ASGI's
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": (await receive())["text"]})

    async def answer(_: Any, send: Any) -> None:  # noqa: ANN401 — ASGI's
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    with LocalServer(application, ws="auto") as server, Wire(server.port) as http, Wire.open(server.port) as socket:
        links = server.links
        http.send(GET)
        http.read_until(b"ok")
        socket.send(frame(TEXT, b"hello"))
        assert socket.read_frame() == (TEXT, b"hello")
        assert server.links is links


def test_uvicorn_stops_by_calling_shutdown_of_every_connection() -> None:
    """Server of uvicorn stops by calling ``shutdown`` of every connection, and waits until they are gone."""
    assert "connection.shutdown()" in inspect.getsource(Server.shutdown)
    assert "self.server_state.connections" in inspect.getsource(Server)


def test_uvicorn_has_the_parts_of_a_stop_that_ours_calls() -> None:
    """Server of uvicorn has the parts of a stop that ours calls, replaces, or does before."""
    startup, tick = inspect.getsource(Server.startup), inspect.getsource(Server.on_tick)
    stop = inspect.getsource(Server.shutdown)
    assert "await self.lifespan.startup()" in startup
    assert "app_state=self.lifespan.state" in startup
    assert "self.server_state.default_headers = date_header + self.config.encoded_headers" in tick
    assert "await self.config.callback_notify()" in tick
    assert "if counter % 10 == 0" in tick
    assert "for server in self.servers:" in stop
    assert "timeout=self.config.timeout_graceful_shutdown" in stop
    assert "self.should_exit = True" in inspect.getsource(Server.handle_exit)

"""What we rely on in uvicorn and do not import: an upgrade that breaks it fails here, and says what."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from uvicorn import Config, Server
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app.server.http import HttpProtocol
from app.server.websocket import WebSocketProtocol


async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 — ASGI's
    """Do nothing."""


@pytest.fixture
def config() -> Config:
    """Return a configuration that has our classes."""
    config = Config(app, http=HttpProtocol, ws=WebSocketProtocol, log_config=None)
    config.load()
    return config


def test_constructor() -> None:
    """Server of uvicorn makes an HTTP protocol of the configuration, the server's state and the lifespan's."""
    assert list(inspect.signature(HttpToolsProtocol).parameters) == ["config", "server_state", "app_state", "_loop"]


async def test_attributes(config: Config) -> None:
    """HTTP protocol of uvicorn has the attributes that ours reads when it hands a connection over."""
    state = ServerState()
    protocol = HttpProtocol(config=config, server_state=state, app_state={"a": 1})
    assert protocol.config is config
    assert protocol.server_state is state
    assert protocol.connections is state.connections
    assert protocol.app_state == {"a": 1}
    assert protocol.cycle is None
    unset = ("transport", "server", "client", "scheme", "headers", "flow", "timeout_keep_alive_task")
    assert [getattr(protocol, name) for name in unset] == [None] * len(unset)
    protocol.on_message_begin()
    assert (protocol.url, protocol.headers) == (b"", [])


@pytest.mark.parametrize(
    "name",
    [
        "_should_upgrade",
        "_unset_keepalive_if_required",
        "_unsupported_upgrade_warning",
        "send_400_response",
        "on_message_begin",
        "on_headers_complete",
        "on_body",
        "on_message_complete",
        "shutdown",
    ],
)
def test_methods(name: str) -> None:
    """HTTP protocol of uvicorn has the methods that ours calls or replaces."""
    assert callable(getattr(HttpToolsProtocol, name))


def test_upgrade_is_decided_by_one_method() -> None:
    """HTTP protocol of uvicorn asks the method that ours replaces wherever it treats an upgrade apart."""
    for method in (HttpToolsProtocol.on_headers_complete, HttpToolsProtocol.on_body):
        assert "self._should_upgrade()" in inspect.getsource(method)
    assert "self._should_upgrade()" in inspect.getsource(HttpToolsProtocol.on_message_complete)


def test_data_received() -> None:
    """HTTP protocol of uvicorn does in data_received what ours does in its place, and nothing more."""
    source = inspect.getsource(HttpToolsProtocol.data_received)
    lines = [line.strip() for line in source.splitlines() if line.strip()]
    assert lines == [
        "def data_received(self, data: bytes) -> None:",
        "self._unset_keepalive_if_required()",
        "try:",
        "self.parser.feed_data(data)",
        "except httptools.HttpParserError:",
        'msg = "Invalid HTTP request received."',
        "self.logger.warning(msg)",
        "self.send_400_response(msg)",
        "return",
        "except httptools.HttpParserUpgrade:",
        "if self._should_upgrade():",
        "self.handle_websocket_upgrade()",
        "else:",
        "self._unsupported_upgrade_warning()",
    ]


def test_cycle() -> None:
    """Request of uvicorn has the attributes by which ours knows whether it has been answered."""
    source = inspect.getsource(httptools_impl.RequestResponseCycle.__init__)
    assert "self.response_complete = False" in source
    assert "self.waiting_for_100_continue = " in source


def test_config(config: Config) -> None:
    """Configuration of uvicorn has what a WebSocket asks it for."""
    assert config.ws_protocol_class is WebSocketProtocol
    assert config.http_protocol_class is HttpProtocol
    assert callable(config.loaded_app)
    assert config.asgi_version == "3.0"
    assert config.root_path == ""
    assert config.ws_max_size > 0
    assert (config.ws_ping_interval, config.ws_ping_timeout) == (20.0, 20.0)


def test_state() -> None:
    """State of uvicorn has the sets and headers that connections share, and can be a weak key."""
    state = ServerState()
    assert (state.connections, state.tasks, state.default_headers) == (set(), set(), [])
    assert state.__weakref__ is None  # type: ignore[attr-defined]


def test_shutdown() -> None:
    """Server of uvicorn stops by calling ``shutdown`` of every connection, and waits until they are gone."""
    assert "connection.shutdown()" in inspect.getsource(Server.shutdown)
    assert "self.server_state.connections" in inspect.getsource(Server._wait_tasks_to_complete)  # noqa: SLF001 — pinned

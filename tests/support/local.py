"""Our protocol classes under uvicorn in a thread of the test's process, for tests that look inside."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import uvicorn

from app.core.ports import Heartbeat, Writer
from app.server.http.connection import HttpProtocol
from app.server.http.server_state import ServerState
from app.server.lasting.link_context import LinkContext
from app.server.lasting.websocket import WebSocketProtocol
from tests.support.wire import PATIENCE, Wire, close, request

T = TypeVar("T")
Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Script = Callable[[Receive, Send], Awaitable[None]]

GET = b"GET / HTTP/1.1\r\nHost: abide\r\n\r\n"


class HurriedWebSocket(WebSocketProtocol):
    """The protocol with timeouts that a test can wait for."""

    __slots__ = ()

    handshake_timeout = 0.5
    closing_timeout = 0.5


class LocalServer:
    """A server of ``app`` on a port of its own; ``options`` are uvicorn's."""

    def __init__(self, app: Any, **options: Any) -> None:  # noqa: ANN401 — uvicorn's own
        defaults: dict[str, Any] = {
            "http": HttpProtocol,
            "ws": HurriedWebSocket,
            "loop": "uvloop",
            "lifespan": "off",
            "port": 0,
            "proxy_headers": False,  # as the worker has it: the protocol judges them itself
        }
        config = uvicorn.Config(app, **(defaults | {"log_config": None, "access_log": False} | options))
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def port(self) -> int:
        """Where it listens; valid inside the context."""
        port: int = self.server.servers[0].sockets[0].getsockname()[1]
        return port

    @property
    def connections(self) -> list[Any]:
        """The protocols that uvicorn knows of."""
        return list(self.server.server_state.connections)

    @property
    def links(self) -> LinkContext:
        """What its links share."""
        server = self.server
        return self.call(ServerState.of, server.server_state, server.config, server.lifespan.state).links

    def call(self, function: Callable[..., T], *args: Any) -> T:  # noqa: ANN401 — the function's own
        """Call a function in the server's thread, and return what it returns."""

        async def call() -> T:
            return function(*args)

        return self.run(call())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the server's thread, and return what it returns."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    def stop(self) -> None:
        """Stop it as uvicorn does on SIGTERM."""
        self.server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def __enter__(self) -> Self:
        self._thread.start()
        wait_for(lambda: self.server.started)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self.server.config.get_loop_factory()) as runner:
            self._loop = runner.get_loop()
            runner.run(self.server.serve())


class Detached:
    """An ASGI application that hands its connections over; ``peers`` has them, the oldest first."""

    def __init__(self, heartbeat: Heartbeat | None = None) -> None:
        self.heartbeat = heartbeat
        self.peers: list[Recorder] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 — ASGI's
        await receive()
        await send({"type": "websocket.accept"})
        peer = Recorder()
        peer.writer = scope["extensions"]["abide.fanout"](peer, self.heartbeat)
        self.peers.append(peer)

    def open(self, server: LocalServer, *, receive_buffer: int | None = None) -> tuple[Wire, Recorder]:
        """Open a connection; return both ends."""
        known = len(self.peers)
        wire = Wire.open(server.port, receive_buffer=receive_buffer)
        return wire, wait_for(lambda: self.peers[known:])[0]


class Streaming:
    """An ASGI application that hands its responses over; ``peers`` has them, the oldest first.

    ``/short`` is answered by ``ok`` instead, and ``/late`` is handed over when :attr:`go` is set.
    """

    def __init__(self, heartbeat: Heartbeat) -> None:
        self.heartbeat = heartbeat
        self.peers: list[Recorder] = []
        self.go = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401, ARG002 — ASGI's
        short = scope["path"] == "/short"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")] * short})
        if short:
            await send({"type": "http.response.body", "body": b"ok"})
            return
        if scope["path"] == "/late":
            await self.go.wait()
        peer = Recorder()
        peer.writer = scope["extensions"]["abide.fanout"](peer, self.heartbeat)
        self.peers.append(peer)

    def open(
        self, server: LocalServer, request: bytes = GET, *, receive_buffer: int | None = None
    ) -> tuple[Wire, Recorder]:
        """Ask for a response; return both ends."""
        known = len(self.peers)
        wire = Wire(server.port, receive_buffer=receive_buffer)
        wire.send(request)
        return wire, wait_for(lambda: self.peers[known:])[0]


class Recorder:
    """A peer that notes what it is told."""

    writer: Writer

    def __init__(self) -> None:
        self.messages: list[tuple[bytes, bool]] = []
        self.flow: list[str] = []
        self.codes: list[int] = []

    def received(self, data: bytes, *, text: bool) -> None:
        self.messages.append((data, text))

    def max_size(self) -> int:
        return 2**63

    def full(self) -> None:
        self.flow.append("full")

    def writable(self) -> None:
        self.flow.append("writable")

    def closed(self, code: int) -> None:
        self.codes.append(code)


def stall(server: LocalServer, peer: Recorder, data: bytes) -> int:
    """Write to a peer that does not read until its connection is full; return how many writes that took."""
    count = 0
    while not peer.writer.is_full():
        server.call(peer.writer.write, data)
        count += 1
    return count


@contextmanager
def serving(script: Callable[..., Awaitable[None]], *, scope: bool = False) -> Iterator[LocalServer]:
    """Serve an application that does the same with every WebSocket; it gets the scope if it wants."""

    async def app(its_scope: Event, receive: Receive, send: Send) -> None:
        await (script(its_scope, receive, send) if scope else script(receive, send))

    with LocalServer(app) as server:
        yield server


def answer(script: Script) -> bytes:
    """Return what a server of ``script`` sends to a client that opens a WebSocket and closes it."""
    with serving(script) as server, Wire(server.port) as wire:
        wire.send(request("/") + close(1000))
        return wire.read_rest()


def wait_for(condition: Callable[[], T], *, timeout: float = PATIENCE) -> T:
    """Return what ``condition`` returns as soon as that is true."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.005)
    return result

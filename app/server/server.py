"""uvicorn's server, which stops gradually.

A stop has these steps:

1. The process reports that it is not ready, and closes its listener. A load balancer then chooses other servers at
   once, without waiting for its next probe; under gunicorn, the worker that takes over has the same listener. Open
   connections go on: requests are answered, with ``connection: close``.
2. What lasts (WebSockets, event streams, long-polls) is closed, evenly over the drain's window.
3. Connections between two requests are closed. Peers have a moment to answer a close, or to send the rest of a body;
   then connections that only wait for their peer are cut.
4. Requests under way are answered, then the application's lifespan ends.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import ClassVar

import uvicorn
from uvicorn.config import Config

from app.core.ports import DRAIN
from app.server.drain import STEP, ServerDrain, spread
from app.server.http.connection import HttpProtocol
from app.server.http.server_state import ServerState
from app.server.lasting.link import Link
from app.server.sockets import passes_buffers_on, prepare
from app.wire.handshake import LAST

_logger = logging.getLogger("uvicorn.error")


class Server(uvicorn.Server):
    """Serves the connections of one worker, and drains them before it ends."""

    leave_seconds: ClassVar[float] = 2.0
    """Seconds for peers to answer a close, or to send the rest of a body."""

    hurried_leave_seconds: ClassVar[float] = 0.5
    """The same in a quick stop: gunicorn's master kills a worker after two seconds."""

    same_signal: ClassVar[float] = 2.0
    """Seconds within which a second SIGTERM means the same stop.

    systemd signals all processes of a service, and gunicorn's master then passes its own signal on.
    """

    def __init__(
        self,
        config: Config,
        *,
        drain_seconds: float,
        max_connection_age: float | None,
        on_started: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._drain_seconds = drain_seconds
        self._max_connection_age = max_connection_age
        self.server_state: ServerState = ServerState()
        self._drain: ServerDrain
        """Valid once started."""
        self._hurried = False
        self._ticks = 0
        self._asked_at = 0.0  # when the stop was asked for; valid with should_exit

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Put the drain into the application's state, then start."""
        self.server_state.begin(self.config, self.lifespan.state)
        links = self.server_state.links
        links.limits.limit_age(self._max_connection_age)
        self._drain = self.lifespan.state[DRAIN] = ServerDrain(links)
        links.buffers_are_bound = sockets is not None and all(map(passes_buffers_on, sockets))
        await super().startup(sockets and [same for listener in sockets for same in prepare(listener)])
        if self.started:
            self._on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop gradually on SIGTERM, at once on SIGINT and on a second SIGTERM."""
        if not self.should_exit:
            self._asked_at = time.monotonic()
            super().handle_exit(sig, frame)
        elif time.monotonic() - self._asked_at > self.same_signal:
            self._hurried = True
        if sig != signal.SIGTERM:
            self._hurried = True

    def quit(self) -> None:
        """Stop at once."""
        self._hurried = True
        self.handle_exit(signal.SIGTERM, None)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop in the steps above."""
        self._drain.has_begun = True
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        await self._end_keep_alive()
        await self._tell()
        self.server_state.links.is_over = True
        await self._take_leave()
        await super().shutdown(sockets)

    async def _end_keep_alive(self) -> None:
        """Make every answer from now on the last one of its connection."""
        self.config.encoded_headers = [*self.config.encoded_headers, LAST]
        await self._tick()
        for connection in self.server_state.connections:
            if isinstance(connection, HttpProtocol) and connection.is_answering:
                connection.shutdown()

    async def _tell(self) -> None:
        connections = self.server_state.connections
        lasting = [connection for connection in connections if not isinstance(connection, HttpProtocol)]
        seconds = self._window()
        if lasting and seconds:
            _logger.info("Draining %d connections within %g s", len(lasting), seconds)
        await spread(lasting, connections, self._window, self._steps())

    async def _take_leave(self) -> None:
        connections = self.server_state.connections
        for connection in list(connections):
            connection.shutdown()
        step = self._steps()
        while connections and await step() < (self.hurried_leave_seconds if self._hurried else self.leave_seconds):
            pass
        for connection in list(connections):
            if isinstance(connection, HttpProtocol | Link):
                connection.cut()

    def _window(self) -> float:
        return 0 if self._hurried else self._drain_seconds

    def _steps(self) -> Callable[[], Awaitable[float]]:
        """Return a function that waits a moment, keeps the worker's heartbeat going, and returns seconds since now."""
        begun = time.monotonic()

        async def step() -> float:
            await asyncio.sleep(STEP)
            await self._tick()
            return time.monotonic() - begun

        return step

    async def _tick(self) -> None:
        # uvicorn's main loop did this, and has ended. Without it gunicorn would take a long drain for a hanging worker.
        await self.on_tick(self._ticks)
        self._ticks = (self._ticks + 1) % 10

"""The gunicorn worker: uvicorn, set up for many long-lived connections."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

# uvicorn imports these two when it serves. Imported here, by the master, all workers share them in memory.
import uvicorn.lifespan.on
import uvicorn.loops.uvloop  # noqa: F401 — see above
from gunicorn.arbiter import Arbiter
from uvicorn_worker import UvicornWorker

from app.server import garbage, open_files
from app.server.http.connection import HttpProtocol
from app.server.lasting.websocket import WebSocketProtocol
from app.server.server import Server
from app.wire.http1 import forget_lines

MAX_FRAME_SIZE = 1024 * 1024 + 64 * 1024
"""Bytes of one WebSocket message: the largest ``max_message_size``, and room for the JSON around its data."""

PING_SECONDS = 20.0
"""Between pings, and until a ping must be answered. The shortest idle timeout of common proxies is 55 s."""

STOP_SECONDS = 10
"""What gunicorn's ``graceful_timeout`` adds to the drain: closing (2 s), requests under way, the lifespan's end."""

ANSWER_SECONDS = 3
"""For requests under way after the drain; then they are cancelled, so that one that hangs does not keep the process."""


class AbideWorker(UvicornWorker):
    """One process that serves the application."""

    CONFIG_KWARGS: dict[str, Any] = {  # noqa: RUF012 — declared so by UvicornWorker
        "loop": "uvloop",
        "http": HttpProtocol,
        "ws": WebSocketProtocol,
        "ws_max_size": MAX_FRAME_SIZE,
        "ws_ping_interval": PING_SECONDS,
        "ws_ping_timeout": PING_SECONDS,
        # The application writes one line per request or connection, without the query string.
        "access_log": False,
        "server_header": False,
        # HttpProtocol judges X-Forwarded-For itself, by the same forwarded_allow_ips.
        "proxy_headers": False,
        "lifespan": "on",
        "timeout_graceful_shutdown": ANSWER_SECONDS,
    }

    # Set by gunicorn.conf.py in the master, which forks the workers: gunicorn has no settings for them.

    drain_seconds: ClassVar[float] = 0
    """Seconds over which connections are closed at a stop."""

    max_connection_age: ClassVar[float | None] = None
    """Seconds after which a connection is closed so that its peer connects again; None for no limit."""

    on_started: ClassVar[Callable[[Sequence[socket.socket]], None]] = staticmethod(lambda _: None)
    """Called with the listeners once the first worker of the server accepts connections."""

    def __init__(self, *args: Any) -> None:  # noqa: ANN401 — gunicorn's
        super().__init__(*args)
        self._serving = mmap.mmap(-1, 1)  # shared with the master, which makes the worker and then forks

    @property
    def is_serving(self) -> bool:
        """Whether it has begun to accept connections; the master sees it, too."""
        return bool(self._serving[0])

    def init_signals(self) -> None:
        """Ignore the signals that are for the master, which reach a worker when a process group is signalled.

        SIGINT is one of them until the server handles it: a worker that is starting would end by it, and be reported.
        """
        super().init_signals()
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)

    async def _serve(self) -> None:
        garbage.settle()
        open_files.raise_limit()
        self.config.app = self.wsgi
        server = Server(
            self.config,
            drain_seconds=self.drain_seconds,
            max_connection_age=self.max_connection_age,
            on_started=self._started,
        )
        # The master passes SIGINT on as SIGQUIT.
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, server.quit)
        giving_back = asyncio.create_task(garbage.give_back(forget_lines), name="give-back")
        await server.serve(sockets=self.sockets)
        giving_back.cancel()
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def _started(self) -> None:
        self._serving[0] = 1
        with contextlib.suppress(OSError):  # it may not be ours to signal
            os.kill(self.ppid, signal.SIGCHLD)  # wakes the master, which otherwise looks once a second
        if self.age == 1:
            type(self).on_started(self.sockets)

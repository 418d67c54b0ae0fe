"""The gunicorn worker: uvicorn, set up for many long-lived connections."""

from __future__ import annotations

import asyncio
import gc
import signal
from typing import Any

from uvicorn_worker import UvicornWorker

from app.server.http import HttpProtocol
from app.server.websocket import WebSocketProtocol

MAX_FRAME_SIZE = 1024 * 1024 + 64 * 1024
"""Bytes of one WebSocket message: the largest ``max_message_size``, and the frame around its data."""

PING_SECONDS = 20.0
"""Between pings, and until one must be answered; the shortest idle limit of common proxies is 55 s."""

GC_THRESHOLD = (50_000, 20, 100)
"""Objects made before the young are looked at, and how seldom the older ones are."""

SHUTDOWN_MARGIN = 5
"""Seconds of gunicorn's ``graceful_timeout`` that are kept for the lifespan's shutdown."""


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
        "lifespan": "on",
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 — gunicorn's business, passed on
        super().__init__(*args, **kwargs)
        # Finite, so that a handler that ignores its closed connection cannot keep the process.
        self.config.timeout_graceful_shutdown = max(1, self.cfg.graceful_timeout - SHUTDOWN_MARGIN)

    async def _serve(self) -> None:
        # The collector would walk all connections again and again, and finds nothing: they are freed
        # by their counts. What was loaded to start is never looked at again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLD)
        await super()._serve()

    def _install_sigquit_handler(self) -> None:
        """End on SIGQUIT, with which the master passes SIGINT on: the base class notes it where nobody looks."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, signal.raise_signal, signal.SIGTERM)

"""Serves the numbers of all workers on a port of its own, from gunicorn's master.

Import it only once the directory's name is in the environment: see ``metrics``.
"""

from __future__ import annotations

import io
import os
import socket
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import BoundedSemaphore, Thread
from typing import Any, ClassVar

from prometheus_client.multiprocess import mark_process_dead

from app.telemetry import activity, counts
from app.telemetry.directory import DIRECTORY
from app.telemetry.metrics import expose

PATH = "/metrics"

MAX_REQUESTS = 8
"""Requests that are answered at the same time; others wait in the kernel's queue."""

REQUEST_SECONDS = 10
"""Seconds for a request to arrive whole, and for an answer to be read."""

Names = Callable[[str], bool]
"""Whether a ``Host`` header is allowed."""


def forget(pid: int) -> None:
    """Drop the gauges of a worker that has ended; its counters stay."""
    mark_process_dead(pid)  # type: ignore[no-untyped-call]
    counts.forget(os.environ[DIRECTORY], pid)
    activity.forget(os.environ[DIRECTORY])


class Exporter:
    """An HTTP server with one page, in a thread of the master: it answers even if all workers are busy or gone."""

    running: ClassVar[Exporter | None] = None
    """The one of this process. It is not kept in gunicorn.conf.py, which SIGHUP executes again."""

    def __init__(self, host: str, port: int, names: Names | None) -> None:
        """Bind the port; raise :class:`OSError`. ``names`` says which ``Host`` is allowed; None allows all."""
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._server = _Server(port, names)
        self._server.socket.close()
        self._server.socket = socket.create_server(
            (host, port), family=family, dualstack_ipv6=address[0] == "::" and socket.has_dualstack_ipv6()
        )

    def start(self) -> None:
        """Serve until the process ends."""
        Exporter.running = self
        Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    @classmethod
    def leave(cls) -> None:
        """Close the port in a forked process: it belongs to the master."""
        if cls.running is not None:
            cls.running._server.socket.close()  # noqa: SLF001 — its own class
            cls.running = None


class _Server(ThreadingHTTPServer):
    def __init__(self, port: int, names: Names | None) -> None:
        super().__init__(("", port), _Handler, bind_and_activate=False)
        self.names = names
        self._room = BoundedSemaphore(MAX_REQUESTS)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 — socketserver's signature
        """Answer in a new thread, once there is room for one."""
        self._room.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could start
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 — as above
        """Answer, then make room."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 — as above
        """Report a bug, but not a client that went away."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Arriving(io.RawIOBase):
    """Reads a request until its deadline."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._until = time.monotonic() + REQUEST_SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 — a buffer
        """Read what is there; raise TimeoutError when the request is late."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request; by HTTP/1.0, so that the connection ends with its answer."""

    server: _Server
    server_version, sys_version = "abide", ""

    def setup(self) -> None:
        """Read in time."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Arriving(self.connection))

    def do_GET(self) -> None:
        """Answer with the numbers."""
        self.connection.settimeout(REQUEST_SECONDS)
        names = self.server.names
        if names is not None and not names(self.headers.get("host", "")):
            # Else a page whose name was made to lead here (DNS rebinding) could read them.
            self.send_error(HTTPStatus.FORBIDDEN, explain="ask for localhost, or for a loopback address")
            return
        if self.path.partition("?")[0] != PATH:
            self.send_error(HTTPStatus.NOT_FOUND, explain=f"there is only {PATH} here")
            return
        body, content_type = expose(self.headers.get("accept", ""))
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 — http.server calls it so

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 — as above
        """Log nothing: scrapers ask all the time."""

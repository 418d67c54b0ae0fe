"""The numbers of all workers, as gunicorn's master keeps them: where their files are, and a port of their own.

Imported when the directory's name is in the environment, and never before: see ``metrics``.
"""

from __future__ import annotations

import socket
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

from prometheus_client.multiprocess import mark_process_dead

from app.telemetry.metrics import expose

PATH = "/metrics"


def forget(pid: int) -> None:
    """Drop what only a living worker has; what a dead one has counted stays."""
    mark_process_dead(pid)  # type: ignore[no-untyped-call]


class Exporter:
    """An HTTP server with one page, in a thread of the master: it answers while all workers are busy, or gone."""

    running: ClassVar[Exporter | None] = None
    """The one of this process; not gunicorn.conf.py's, which a SIGHUP executes anew."""

    def __init__(self, host: str, port: int) -> None:
        """Bind; raise :class:`OSError`."""
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._server = ThreadingHTTPServer(("", port), _Handler, bind_and_activate=False)
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
        """Give up the port in a process that was forked, for it is the master's."""
        if cls.running is not None:
            cls.running._server.socket.close()  # noqa: SLF001 — its own
            cls.running = None


class _Handler(BaseHTTPRequestHandler):
    timeout = 10  # seconds for a request to arrive
    server_version, sys_version = "abide", ""

    def do_GET(self) -> None:
        """Answer with the numbers."""
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
        """Nothing: it is asked all the time."""

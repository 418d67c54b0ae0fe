"""A server to put load on, where none is given: as its users run it, on a Postgres."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.postgres import PostgresServer, free_port

ROOT = Path(__file__).parents[1]
START_SECONDS = 30.0
END_SECONDS = 30.0


@contextlib.contextmanager
def database() -> Iterator[str]:
    """Give the address of ``DATABASE_URL``'s Postgres, else of a new and empty one, which ends with the context."""
    if url := os.environ.get("DATABASE_URL"):
        yield url
        return
    with PostgresServer() as server:
        yield server.url()


@contextlib.contextmanager
def serve(database_url: str, log: Path) -> Iterator[str]:
    """Run ``abide serve`` on a free port and give its address; all its processes end with the context."""
    allow_sockets()
    port = free_port()
    environment = os.environ | {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "DATABASE_URL": database_url,
        "DRAIN_SECONDS": "0",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 — our own command
            [str(ROOT / "bin" / "abide"), "serve"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for locust, which still has to hear from the server
        )
        try:
            _wait_ready(process, port, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            _end(process)


def allow_sockets() -> None:
    """Raise the limit of open files for us and for what we start: every subscriber is a socket."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _wait_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _is_ready(port):
        if process.poll() is not None or time.monotonic() > deadline:
            msg = f"The server did not start; its log, {log}, ends:\n{log.read_text(errors='replace')[-2000:]}"
            raise RuntimeError(msg)
        time.sleep(0.05)


def _is_ready(port: int) -> bool:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", "/health/ready")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

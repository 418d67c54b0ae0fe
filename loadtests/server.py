"""Starts a server to put load on, if none is given: as users run it, on Postgres."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from tests.support.postgres import PostgresServer
from tests.support.processes import ROOT, end, free_port, launch, wait_answer

START_SECONDS = 30.0
END_SECONDS = 30.0


@contextlib.contextmanager
def database() -> Iterator[str]:
    """Give the address of ``DATABASE_URL``'s Postgres, or of a new and empty one that ends with the context."""
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
        process = launch([str(ROOT / "bin" / "abide"), "serve"], environment, stdout=output, stderr=output)
        try:
            if not wait_answer(process, port, "/health/ready", seconds=START_SECONDS):
                msg = f"The server did not start; its log, {log}, ends:\n{log.read_text(errors='replace')[-2000:]}"
                raise RuntimeError(msg)
            yield f"http://127.0.0.1:{port}"
        finally:
            end(process, seconds=END_SECONDS)


def allow_sockets() -> None:
    """Raise the limit of open files for this process and its children: every subscriber is a socket."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

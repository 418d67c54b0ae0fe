"""Every engine, started afresh with the settings in which it promises most, for what compares them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from tests.support.postgres import PostgresServer
from tests.support.tansu import TansuServer
from tests.support.valkey import DURABLE, ValkeyServer


@contextmanager
def _memory() -> Iterator[str]:
    yield "memory://"


@contextmanager
def _sqlite() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="abide-sqlite-") as folder:
        yield f"sqlite:///{folder}/abide.db"


@contextmanager
def _postgres() -> Iterator[str]:
    with PostgresServer() as server:
        yield server.url(asyncio.run(server.create_database()))


@contextmanager
def _redis() -> Iterator[str]:
    with ValkeyServer() as server:
        yield server.url("redis")


@contextmanager
def _redis_stream() -> Iterator[str]:
    with ValkeyServer(DURABLE) as server:
        yield server.url("redis-stream")


@contextmanager
def _kafka() -> Iterator[str]:
    with TansuServer() as server:
        yield server.url("abide.")


ENGINES: Mapping[str, Callable[[], AbstractContextManager[str]]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "postgres": _postgres,
    "redis": _redis,
    "redis-stream": _redis_stream,
    "kafka": _kafka,
}
"""What starts each, by its name: a context manager of the backend's URL."""

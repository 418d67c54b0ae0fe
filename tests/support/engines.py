"""Every engine, started afresh with the settings in which it promises most, for what compares them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

from tests.support.postgres import PostgresServer
from tests.support.tansu import TansuServer
from tests.support.valkey import DURABLE, ValkeyServer


class Running(NamedTuple):
    """An engine that runs."""

    url: str
    """The backend's."""
    pid: int | None = None
    """Of its process, if it has one of its own."""


@contextmanager
def _memory() -> Iterator[Running]:
    yield Running("memory://")


@contextmanager
def _sqlite() -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="abide-sqlite-") as folder:
        yield Running(f"sqlite:///{folder}/abide.db")


@contextmanager
def _postgres() -> Iterator[Running]:
    with PostgresServer() as server:
        yield Running(server.url(asyncio.run(server.create_database())), server.pids()[0])


@contextmanager
def _redis() -> Iterator[Running]:
    with ValkeyServer() as server:
        yield Running(server.url("redis"), server.pid)


@contextmanager
def _redis_stream() -> Iterator[Running]:
    with ValkeyServer(DURABLE) as server:
        yield Running(server.url("redis-stream"), server.pid)


@contextmanager
def _kafka() -> Iterator[Running]:
    with TansuServer() as server:
        yield Running(server.url("abide."), server.pid)


ENGINES: Mapping[str, Callable[[], AbstractContextManager[Running]]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "postgres": _postgres,
    "redis": _redis,
    "redis-stream": _redis_stream,
    "kafka": _kafka,
}
"""What starts each, by its name."""

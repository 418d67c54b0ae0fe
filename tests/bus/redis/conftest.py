"""Servers for the tests of Redis: one that all tests of a module share, and workers on it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from app.bus import outcomes
from app.bus.redis.streams import StreamsBackend
from tests.support.readers import ALL, Worker, worker_of
from tests.support.valkey import DURABLE, ValkeyServer


@pytest.fixture(autouse=True)
def soon_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let readiness follow at once: that it does not flicker is another test's."""
    monkeypatch.setattr(outcomes, "SETTLE_SECONDS", 0.1)


@pytest.fixture(scope="module")
def shared() -> Iterator[ValkeyServer]:
    """Start a server that loses nothing."""
    with ValkeyServer(DURABLE) as server:
        yield server


@pytest.fixture
def server(shared: ValkeyServer) -> ValkeyServer:
    """Empty the module's server."""
    shared.run("FLUSHALL")
    return shared


@contextlib.asynccontextmanager
async def streams(
    url: str, name: str = "worker", *, min_replicas: int = 0, ready: bool = True
) -> AsyncIterator[Worker]:
    """Run a worker on streams."""
    backend = StreamsBackend(url, retention=lambda _: ALL, min_replicas=min_replicas)
    async with worker_of(backend, name=name, ready=ready) as made:
        yield made

"""Workers on a file of the test's own."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from app.bus.sqlite import SqliteBackend
from tests.support.readers import ALL, Worker, worker_of

Run = Callable[..., AbstractAsyncContextManager[Worker]]
"""Runs a worker by its name."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def start(path: Path) -> Run:
    """Return what runs a worker on the file, by a name."""

    @asynccontextmanager
    async def start(name: str = "worker", *, ready: bool = True) -> AsyncIterator[Worker]:
        async with worker_of(SqliteBackend(path, retention=lambda _: ALL), name=name, ready=ready) as worker:
            yield worker

    return start

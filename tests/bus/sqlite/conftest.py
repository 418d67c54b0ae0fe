"""Workers on a file of the test's own."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from app.bus.backend import Retention
from app.bus.sqlite import SqliteBackend
from tests.support.readers import ALL, Worker, worker_of

Run = Callable[..., AbstractAsyncContextManager[Worker]]
"""Runs a worker by its name."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def run(path: Path) -> Run:
    """Return what runs a worker on the file, by a name."""

    @asynccontextmanager
    async def run(
        name: str = "worker", *, ready: bool = True, retention: Retention = lambda _: ALL
    ) -> AsyncIterator[Worker]:
        async with worker_of(SqliteBackend(path, retention=retention), name=name, ready=ready) as worker:
            yield worker

    return run

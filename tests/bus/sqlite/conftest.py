"""Workers on a file of the test's own."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from app.bus import outcomes
from app.bus.backend import Retention
from app.bus.sqlite import SqliteBackend, watch
from tests.support.readers import ALL, Worker, worker_of

Run = Callable[..., AbstractAsyncContextManager[Worker]]
"""Runs a worker by its name."""


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers look at the file often, and count as well again soon, so that no test has to wait for it."""
    monkeypatch.setattr(watch, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(outcomes, "SETTLE_SECONDS", 0.2)


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

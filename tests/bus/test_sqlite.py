"""The log in a SQLite file."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.bus.backend import Backend
from app.bus.sqlite import SqliteBackend
from app.core.channel import HistoryWindow
from tests.bus.conformance import ALL, Conformance


async def healthy(backend: Backend) -> None:
    """Wait until the backend is connected and hears."""
    async with asyncio.timeout(20):
        while not (await backend.health()).ok:  # noqa: ASYNC110 — health is there to be asked
            await asyncio.sleep(0.002)


class SqliteSubject:
    """A connected backend on a file of its own."""

    def __init__(self, path: Path) -> None:
        self.retention: dict[str, HistoryWindow] = {}
        self._path = path
        self.backend = SqliteBackend(path, retention=lambda channel: self.retention.get(channel, ALL))

    async def age(self, seconds: float) -> None:
        with sqlite3.connect(self._path) as connection:
            for table in ("log", "key", "head"):
                connection.execute(f"UPDATE {table} SET time = time - {int(seconds * 1000)}")  # noqa: S608 — our own names
        connection.close()


@pytest.fixture
async def subject(tmp_path: Path) -> AsyncIterator[SqliteSubject]:
    subject = SqliteSubject(tmp_path / "log.db")
    await subject.backend.connect()
    await healthy(subject.backend)
    yield subject
    await subject.backend.disconnect()


class TestSqlite(Conformance):
    """SqliteBackend keeps the contract."""

"""The log in PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.bus.backend import Backend
from app.bus.postgres import PostgresBackend
from app.core.channel import HistoryWindow
from tests.bus.conformance import ALL, Conformance
from tests.support.postgres import PostgresServer


async def healthy(backend: Backend) -> None:
    """Wait until the backend is connected and hears."""
    async with asyncio.timeout(20):
        while not (await backend.health()).ok:  # noqa: ASYNC110 — health is there to be asked
            await asyncio.sleep(0.005)


class PostgresSubject:
    """A connected backend on a database of its own."""

    def __init__(self, server: PostgresServer, database: str, *, inline: bool = True) -> None:
        self.retention: dict[str, HistoryWindow] = {}
        self._server, self._database = server, database
        self.backend = PostgresBackend(
            server.url(database), retention=lambda channel: self.retention.get(channel, ALL), inline=inline
        )

    async def age(self, seconds: float) -> None:
        for table in ("log", "key", "head"):
            query = f"UPDATE abide.{table} SET time = time - {int(seconds * 1000)}"  # noqa: S608 — our own names
            await self._server.execute(query, database=self._database)


@pytest.fixture(params=[True, False], ids=["inline", "doorbell"])
async def subject(
    request: pytest.FixtureRequest, postgres: PostgresServer, database: str
) -> AsyncIterator[PostgresSubject]:
    subject = PostgresSubject(postgres, database, inline=request.param)
    await subject.backend.connect()
    await healthy(subject.backend)
    yield subject
    await subject.backend.disconnect()


class TestPostgres(Conformance):
    """PostgresBackend keeps the contract, with messages inside NOTIFY and without."""

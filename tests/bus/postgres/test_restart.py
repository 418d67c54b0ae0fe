"""A database that restarts and crashes under load, on a server of the test's own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Literal

import anyio.to_thread
import asyncpg
import pytest

from app.bus.postgres import migrate
from app.core.errors import OutcomeUnknownError
from app.core.message import Published, Record
from tests.support.postgres import PostgresServer
from tests.support.readers import Ledger, Worker, healthy, says, until, workers

pytestmark = pytest.mark.usefixtures("unretrieved")

CHANNELS = ["a", "b", "c"]


@pytest.fixture
async def mortal() -> AsyncIterator[PostgresServer]:
    """Start a server that a test may stop."""
    server = PostgresServer()
    await anyio.to_thread.run_sync(server.start)
    await migrate(server.url())
    yield server
    await anyio.to_thread.run_sync(server.close)


class Crowd:
    """Publishers of both kinds on every worker, and one in SQL."""

    def __init__(self, ledger: Ledger, all_workers: list[Worker]) -> None:
        self.ledger, self.workers = ledger, all_workers
        self.stopping = asyncio.Event()
        self.published = 0

    async def publish(self, worker: Worker, number: int) -> None:
        serial = 0
        while not self.stopping.is_set():
            record = Record(
                self.ledger.random.choice(CHANNELS), self.ledger.data(self.ledger.random.choice([40, 9000]))
            )
            if number % 2:
                serial += 1
                await self.ledger.insist(worker, record._replace(key=f"{worker.name}-{number}-{serial}"))
                self.published += 1
            else:
                (outcome,) = await self.ledger.publish(worker, [record])
                assert isinstance(outcome, Published | OutcomeUnknownError), repr(outcome)
                self.published += isinstance(outcome, Published)
            await asyncio.sleep(self.ledger.random.uniform(0, 0.01))

    async def publish_sql(self, url: str) -> None:
        serial = 0
        while not self.stopping.is_set():
            connection = None
            try:
                connection = await asyncpg.connect(url)
                await connection.execute("SET synchronous_commit = on")  # this transaction is the publisher's own
                while not self.stopping.is_set():
                    serial += 1
                    data = f'"sql {serial}"'.encode()
                    self.ledger.doubtful["a"][data] += 1
                    await connection.execute("SELECT abide.publish('a', $1::text::jsonb)", data.decode())
                    self.ledger.doubtful["a"][data] -= 1
                    self.ledger.committed["a"][data] += 1
                    await asyncio.sleep(0.005)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                await asyncio.sleep(0.02)
            finally:
                if connection is not None:
                    connection.terminate()

    async def more(self, count: int) -> None:
        """Return when so many more were acknowledged."""
        goal = self.published + count
        await until(lambda: self.published >= goal, "publishers go on")


@pytest.mark.parametrize("mode", ["fast", "immediate", "crash"])
async def test_a_restart_under_load_loses_and_doubles_nothing(
    mortal: PostgresServer, mode: Literal["fast", "immediate", "crash"]
) -> None:
    """Workers whose database restarts or crashes turn red, then green, and have lost and doubled nothing."""
    ledger = Ledger({"fast": 41, "immediate": 42, "crash": 43}[mode])
    # Whatever the operator chose: what is acknowledged survives.
    await mortal.execute("ALTER DATABASE postgres SET synchronous_commit = off")
    down: Callable[[], None] = mortal.crash if mode == "crash" else lambda: mortal.stop(mode)
    async with workers(mortal.url(), 2) as both:
        readers = [reader for it in both for reader in await it.follow(*CHANNELS)]
        crowd = Crowd(ledger, both)
        async with asyncio.TaskGroup() as group:
            for it in both:
                for number in range(8):
                    group.create_task(crowd.publish(it, number))
            group.create_task(crowd.publish_sql(mortal.url()))
            await crowd.more(200)
            ledger.note(f"{mode} stop")
            await anyio.to_thread.run_sync(down)
            for it in both:
                assert f"127.0.0.1:{mortal.port}" in await says(it.backend, "no connection to")
            await anyio.to_thread.run_sync(mortal.start)
            ledger.note("started")
            for it in both:
                await healthy(it.backend, seconds=5)
            await crowd.more(200)
            crowd.stopping.set()
        await ledger.check(mortal.url(), readers)
    assert ledger.refused == 0  # it was away for less than the publishers' patience

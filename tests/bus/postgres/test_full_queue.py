"""A session that listens and does not read: the queue of notifications is full, and publishers in SQL go on."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from app.bus.postgres import migrate
from tests.support.postgres import PostgresServer, wheel_binaries
from tests.support.readers import until, worker

PAGES = 64
"""The smallest queue there is: half a megabyte. It can be set since PostgreSQL 17."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with PostgresServer(wheel_binaries(), settings={"max_notify_queue_pages": str(PAGES)}) as server:
        asyncio.run(migrate(server.url()))
        yield server.url()


@pytest.fixture
async def deaf(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Listen, and stay in a transaction: nothing leaves the queue."""
    connection = await asyncpg.connect(url)
    await connection.execute("LISTEN other")
    await connection.execute("BEGIN; SELECT 1")
    yield connection
    connection.terminate()


async def test_a_full_queue_refuses_no_publisher_in_sql(
    url: str, sql: asyncpg.Connection, deaf: asyncpg.Connection
) -> None:
    """Publisher rings nobody while the queue is full, and the message comes; afterwards it rings again, at once."""
    with contextlib.suppress(asyncpg.ProgramLimitExceededError):
        for _ in range(2 * PAGES):
            await sql.execute("SELECT pg_notify('other', repeat('x', 7000))")
    with pytest.raises(asyncpg.ProgramLimitExceededError, match="too many notifications"):
        await sql.execute("SELECT pg_notify('other', repeat('x', 7000))")
    await sql.execute("SELECT abide.publish('a', '1')")
    async with worker(url, ready=False) as it:
        await until(lambda: sql.fetchval("SELECT NOT EXISTS (SELECT FROM abide.outbox)"), "an empty outbox")
        await until(lambda: sql.fetchval("SELECT last_value = 0 FROM abide.awake"), "a drain that sleeps")
        await sql.execute("SELECT abide.publish('a', '2')")
        await until(lambda: sql.fetchval("SELECT head = 2 FROM abide.head"), "what was published")
        await deaf.close()
        (reader,) = await it.follow("a")
        await until(lambda: sql.fetchval("SELECT last_value = 0 FROM abide.awake"), "a drain that sleeps again")
        listener = await asyncpg.connect(url)
        rung = asyncio.Event()
        await listener.add_listener("abide", lambda _, __, ___, payload: rung.set() if payload == "b" else None)
        await sql.execute("SELECT abide.publish('a', '3')")
        await asyncio.wait_for(rung.wait(), 10)
        assert await reader.until(1) == [b"3"]
        await listener.close()

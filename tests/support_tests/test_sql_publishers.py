"""Publishers in SQL: what they write into the ledger is what becomes of their transactions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import asyncpg
import pytest

from app.bus.postgres import migrate
from tests.support.postgres import PostgresServer
from tests.support.readers import until, worker
from tests.support.sql_publishers import PREPARED_WAYS, WAYS, SqlPublisher
from tests.support.verdict import Ledger, Log, Timeline


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with PostgresServer(settings={"max_prepared_transactions": "8"}) as server:
        asyncio.run(migrate(server.url()))
        yield server.url()


async def test_what_was_committed_is_delivered_and_nothing_else(url: str) -> None:
    """Subscriber is told exactly what transactions of every ending committed, once."""
    ledger, log = Ledger({}), Log("s", "a")
    publisher = SqlPublisher(url, ledger, Timeline())
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        for way in (*WAYS, *PREPARED_WAYS):
            await publisher.publish(way, "a", [f"{way} {number}" for number in range(2)])
        await reader.until(8)
    log.began("e:0", resumed=False)
    for offset, data in enumerate(reader.log, 1):
        log.got(f"e:{offset}", json.loads(data))
    assert ledger.counts() == (8, 0)
    assert ledger.faults([log]) == []


async def test_who_did_not_come_to_the_commit_has_published_nothing(url: str) -> None:
    """Publisher whose session is killed before it asked for the commit notes nothing in the ledger."""
    ledger = Ledger({})
    publisher = SqlPublisher(url, ledger, Timeline())
    killer = await asyncpg.connect(url)
    await killer.execute("BEGIN; LOCK TABLE abide.outbox IN ACCESS EXCLUSIVE MODE")
    publishing = asyncio.create_task(publisher.publish("commit", "a", ["lost"]))
    waiting = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted"
    await until(lambda: killer.fetchval(waiting), "a publisher that waits")
    await publishing
    await killer.close()
    assert ledger.counts() == (0, 0)

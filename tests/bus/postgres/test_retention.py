"""Retention: what is deleted, when, and by whom."""

import asyncio

import asyncpg
import pytest
from structlog.testing import capture_logs

from app.bus.backend import Retention
from app.bus.postgres import retention as module
from app.bus.postgres.dsn import parse
from app.bus.postgres.link import Link
from app.bus.postgres.retention import trim
from app.core.channel import Channel, History, Registry
from app.core.message import Published, Record
from tests.support.postgres import PostgresServer
from tests.support.readers import ALL, until, worker, workers

THREE = History(size=3, ttl=86_400)
HOUR = History(size=1000, ttl=3600)


async def age(sql: asyncpg.Connection, seconds: int, table: str = "log") -> None:
    """Make everything stored so far older."""
    await sql.execute(f"UPDATE abide.{table} SET time = time - {seconds * 1000}")  # noqa: S608 — our own names


async def lasts(sql: asyncpg.Connection, channel: str = "a") -> list[int]:
    """Return the last offset of each row that is left."""
    rows = await sql.fetch("SELECT last FROM abide.log WHERE channel = $1 ORDER BY last", channel)
    return [row["last"] for row in rows]


async def trimmed(url: str, retention: Retention) -> int:
    link = Link(parse(url), "abide work")
    try:
        return await trim(link, retention)
    finally:
        await link.close()


async def fill(url: str, *counts: int, channel: str = "a") -> None:
    """Append rows of so many messages each."""
    async with worker(url) as it:
        for count in counts:
            await it.publish(channel, *["1"] * count)


async def test_rows_past_the_size_go(url: str, sql: asyncpg.Connection) -> None:
    """Retention deletes the rows that hold none of the newest ``size`` messages, and no others."""
    await fill(url, 1, 1, 2, 2, 1)
    await age(sql, 61)
    assert await trimmed(url, lambda _: History(size=2)) == 3
    assert await lasts(sql) == [6, 7]  # of 5 and 6, in one row, 6 is still shown


async def test_rows_past_the_ttl_go(url: str, sql: asyncpg.Connection) -> None:
    """Retention deletes the rows that are older than ``ttl``."""
    await fill(url, 1, 1)
    await age(sql, 3601)
    await fill(url, 1)
    assert await trimmed(url, lambda _: HOUR) == 2
    assert await lasts(sql) == [3]


async def test_nothing_younger_than_a_minute_goes(url: str, sql: asyncpg.Connection) -> None:
    """Retention keeps for a minute what no history shows, for readers that were just told of it."""
    await fill(url, 5, 5)
    nothing = History(size=0, ttl=1)
    await age(sql, 50)
    assert await trimmed(url, lambda _: nothing) == 0
    await age(sql, 11)
    assert await trimmed(url, lambda _: nothing) == 2


async def test_a_channel_that_is_not_declared_follows_the_defaults(url: str, sql: asyncpg.Connection) -> None:
    """Retention treats a channel that is not declared, or not any more, as ``defaults`` say."""
    for channel in ("declared", "room.1", "gone"):
        await fill(url, 1, 1, 1, 1, channel=channel)
    await age(sql, 61)
    registry = Registry(
        (Channel("declared", history=History(size=1)), Channel("room.{name}", history=History(size=2))),
        Channel("defaults", history=THREE),
    )
    assert await trimmed(url, registry.history) == 3 + 2 + 1
    assert [await lasts(sql, channel) for channel in ("declared", "room.1", "gone")] == [[4], [3, 4], [2, 3, 4]]


async def test_keys_go_after_ten_minutes(url: str, sql: asyncpg.Connection) -> None:
    """Retention deletes a key ten minutes after it was used, and not before."""
    async with worker(url) as it:
        await it.bus.publish([Record("a", b"1", "k")])
        await age(sql, 599, "key")
        assert await trimmed(url, lambda _: ALL) == 0
        await age(sql, 2, "key")
        assert await trimmed(url, lambda _: ALL) == 1
        assert await sql.fetchval("SELECT count(*) FROM abide.key") == 0


async def test_heads_stay(url: str, sql: asyncpg.Connection) -> None:
    """Channel whose messages are all gone goes on counting where it was."""
    await fill(url, 1, 1)
    await age(sql, 90_000)
    await age(sql, 90_000, "head")
    assert await trimmed(url, lambda _: THREE) == 2
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        assert reader.begin.offset == 2
        (outcome,) = await it.publish("a", "3")
        assert isinstance(outcome, Published)
        assert outcome.position.offset == 3
        assert await reader.until(1) == [b"3"]


async def test_many_rows_of_many_channels_go_in_pages(
    url: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention works through any number of channels and rows, some at a time."""
    monkeypatch.setattr(module, "_PAGE_CHANNELS", 7)
    monkeypatch.setattr(module, "_BATCH_ROWS", 50)
    await sql.execute("INSERT INTO abide.head SELECT 'c' || c, 40, 0 FROM generate_series(1, 20) c")
    await sql.execute(
        "INSERT INTO abide.log SELECT 'c' || c, i, 1, 0, '1' FROM generate_series(1, 20) c, generate_series(1, 40) i"
    )
    assert await trimmed(url, lambda _: History(size=1, ttl=2**31)) == 20 * 39
    assert await sql.fetchval("SELECT count(*) FROM abide.log") == 20
    assert await trimmed(url, lambda _: History(size=0, ttl=2**31)) == 20


async def test_one_worker_at_a_time(url: str, sql: asyncpg.Connection) -> None:
    """Retention leaves the work to the worker that is at it."""
    await fill(url, *[1] * 10)
    await age(sql, 61)
    transaction = sql.transaction()
    await transaction.start()
    assert await sql.fetchval("SELECT abide.trim('{a}', '{8}', '{999999999}', 1000)") == 2
    assert await trimmed(url, lambda _: THREE) == 0
    await transaction.commit()
    assert sum(await asyncio.gather(*(trimmed(url, lambda _: THREE) for _ in range(3)))) == 5


async def test_workers_trim_by_themselves(url: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers trim in the background, and readers are handed everything all the same."""
    monkeypatch.setattr(module, "_EVERY_SECONDS", 0.01)
    await fill(url, 1, 1)
    await age(sql, 90_000)
    async with workers(url, 2) as both:
        readers = [reader for it in both for reader in await it.follow("a")]
        for number in range(30):
            await both[number % 2].publish("a", str(number))
        for reader in readers:
            assert await reader.until(30) == [str(number).encode() for number in range(30)]

        async def gone() -> bool:
            return 2 not in await lasts(sql)

        await until(gone, "old rows are deleted")
    assert len(await lasts(sql)) == 30


async def test_a_failure_is_logged_and_not_the_end(
    postgres: PostgresServer, url: str, sql: asyncpg.Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker that could not trim says why, and trims the next time."""
    monkeypatch.setattr(module, "_EVERY_SECONDS", 0.01)
    await fill(url, 1)
    await age(sql, 90_000)
    await sql.execute("ALTER FUNCTION abide.trim RENAME TO away")
    with capture_logs() as logs:
        async with worker(url, ready=False):
            await until(lambda: "retention_failed" in [line["event"] for line in logs], "a line in the log")
            await postgres.execute("ALTER FUNCTION abide.away RENAME TO trim", database=database)
            await until(lambda: sql.fetchval("SELECT count(*) = 0 FROM abide.log"), "it trims again")


async def test_a_bug_is_logged_and_not_the_end(
    url: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker whose round of trimming raises what nobody expects logs it, and trims the next time."""
    monkeypatch.setattr(module, "_EVERY_SECONDS", 0.01)
    await fill(url, 1)
    await age(sql, 90_000)
    rounds = 0

    async def broken(link: Link, retention: Retention) -> int:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            msg = "a bug"
            raise RuntimeError(msg)
        return await trim(link, retention)

    monkeypatch.setattr(module, "trim", broken)
    with capture_logs() as logs:
        async with worker(url):
            await until(lambda: sql.fetchval("SELECT count(*) = 0 FROM abide.log"), "it trims")
    assert [line["log_level"] for line in logs if line["event"] == "retention_failed"] == ["error"]

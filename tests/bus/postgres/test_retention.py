"""Retention: what is deleted, when, and by whom."""

import asyncio

import asyncpg
import pytest
from structlog.testing import capture_logs

from app.bus.backend import Retention
from app.bus.postgres import retention as module
from app.bus.postgres.retention import trim
from app.bus.postgres.sessions.dsn import parse
from app.bus.postgres.sessions.work_connection import WorkConnection
from app.core.channel import Channel, HistoryWindow, Registry
from app.core.epochs import label
from app.core.message import Position, Published, Record
from app.core.resume import Gap, Reason, Start, begin
from tests.bus.conformance import check_forgotten
from tests.support.postgres import PostgresServer
from tests.support.readers import ALL, until, worker, workers

THREE = HistoryWindow(size=3, ttl=86_400)
HOUR = HistoryWindow(size=1000, ttl=3600)

WAITING = """
SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')
"""


async def age(sql: asyncpg.Connection, seconds: int, table: str = "log") -> None:
    """Make everything stored so far older."""
    await sql.execute(f"UPDATE abide.{table} SET time = time - {seconds * 1000}")  # noqa: S608 — our own names


async def lasts(sql: asyncpg.Connection, channel: str = "a") -> list[int]:
    """Return the last offset of each row that is left."""
    rows = await sql.fetch("SELECT last FROM abide.log WHERE channel = $1 ORDER BY last", channel)
    return [row["last"] for row in rows]


async def trimmed(url: str, retention: Retention) -> int:
    connection = WorkConnection(parse(url), "abide work")
    try:
        return await trim(connection, retention)
    finally:
        await connection.close()


async def fill(url: str, *counts: int, channel: str = "a") -> None:
    """Append rows of so many messages each."""
    async with worker(url) as it:
        for count in counts:
            await it.publish(channel, *["1"] * count)


async def test_rows_past_the_size_go(url: str, sql: asyncpg.Connection) -> None:
    """Retention deletes the rows that hold none of the newest ``size`` messages, and no others."""
    await fill(url, 1, 1, 2, 2, 1)
    await age(sql, 61)
    assert await trimmed(url, lambda _: HistoryWindow(size=2)) == 3
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
    nothing = HistoryWindow(size=0, ttl=1)
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
        (Channel("declared", history=HistoryWindow(size=1)), Channel("room.{name}", history=HistoryWindow(size=2))),
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


async def test_names_that_are_idle_are_forgotten(url: str, sql: asyncpg.Connection) -> None:
    """Retention forgets a name that is idle for twice its ttl and a minute; new names begin after its offset."""
    await fill(url, 1, 1)
    await fill(url, 1, channel="b")
    async with worker(url) as it:
        before = await it.backend.read("a", 0, 0, ALL)
        await age(sql, 2 * 3600)
        await age(sql, 2 * 3600, "head")
        await trimmed(url, lambda _: HOUR)
        assert await sql.fetchval("SELECT count(*) FROM abide.head") == 2, "not yet"
        await age(sql, 61, "head")
        (reader,) = await it.follow("a")
        await trimmed(url, lambda _: HOUR)
        assert await sql.fetchval("SELECT count(*) FROM abide.head") == 0
        assert (await it.backend.read("b", 0, 0, ALL))[:3] == (3, 2, ())
        (other,) = await it.publish("b", "3")
        assert isinstance(other, Published)
        assert other.position.offset == 3
        since = Position(label(before.lineage), 1)
        page = await it.backend.read("a", 0, 0, ALL)
        following = Position(label(page.lineage), 3)
        where = begin(Start(since=since), page.lineage, page.first, page.head)
        assert where.gap == Gap(str(since), following, Reason.EXPIRED)
        await it.publish("a", "3")
        assert await reader.until(1) == [b"3"]
        assert reader.faults == []
        assert await sql.fetchval("SELECT certified FROM abide.epoch"), "it ends no epoch"


async def test_a_position_of_a_forgotten_name_is_its_place_or_a_gap(url: str, sql: asyncpg.Connection) -> None:
    """Subscriber with a position of a forgotten name gets every later message, and is told of a gap before it."""

    async def forget() -> None:
        for table in ("log", "head"):
            await age(sql, 90_000, table)
        await trimmed(url, lambda _: HOUR)
        assert await sql.fetchval("SELECT count(*) FROM abide.head") == 0

    async with worker(url) as it:
        await check_forgotten(it.backend, forget)


async def test_who_follows_a_forgotten_name_misses_nothing(url: str, sql: asyncpg.Connection) -> None:
    """Reader of a name that is forgotten goes on, without a gap, where it begins again."""
    await fill(url, *[1] * 9, channel="b")
    async with worker(url) as it:
        await it.publish("a", "1")
        (reader,) = await it.follow("a")
        for table in ("log", "head"):
            await age(sql, 90_000, table)
        await trimmed(url, lambda _: HOUR)
        (outcome,) = await it.publish("a", "2")
        assert isinstance(outcome, Published)
        assert outcome.position.offset == 10
        await until(lambda: reader.turns, "word that it begins again")
        assert reader.turns == [(1, 9)]


async def test_a_name_that_is_used_while_it_is_forgotten_goes_on(url: str, sql: asyncpg.Connection) -> None:
    """Commit that waits for a name which is being forgotten begins it again after all that was forgotten."""
    await fill(url, 1, 1)
    await age(sql, 90_000, "head")
    await sql.execute("DELETE FROM abide.log")
    async with worker(url) as it:
        async with sql.transaction():
            await sql.fetchval("SELECT abide.trim('{a}', '{8}', '{3600000}', 1000)")
            assert await sql.fetchval("SELECT count(*) FROM abide.head") == 0
            publishing = asyncio.ensure_future(it.publish("a", "3"))
            await until(lambda: sql.fetchval(WAITING), "the commit waits")
        (outcome,) = await publishing
        assert isinstance(outcome, Published)
        assert outcome.position.offset == 3


async def test_a_clock_that_jumps_leaves_nothing_in_the_future(url: str, sql: asyncpg.Connection) -> None:
    """Messages and keys of a year ahead get the present by retention; those that come after them are of the present."""
    real = await sql.fetchval("SELECT prosrc FROM pg_proc WHERE oid = 'abide.now_ms'::regproc")
    clock = "CREATE OR REPLACE FUNCTION abide.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS $$ {} $$"
    async with worker(url) as it:
        await sql.execute(clock.format(f"SELECT ({real}) + 31536000000"))
        await it.bus.publish([Record("a", b"1", "k"), Record("b", b"1")])
        await sql.execute(clock.format(real))
        await it.publish("a", "2")
        now = await sql.fetchval("SELECT abide.now_ms()")
        first, second = (await it.backend.read("a", 0, 10, ALL)).messages
        assert first.time > now + 10**9
        assert second.time <= now
        await trimmed(url, lambda _: HOUR)
        for table in ("log", "head", "key"):
            assert await sql.fetchval(f"SELECT max(time) - abide.now_ms() FROM abide.{table}") <= 0  # noqa: S608 — our own
        (again,) = await it.bus.publish([Record("a", b"1", "k")])
        assert isinstance(again, Published)
        assert (again.position.offset, again.replayed) == (1, True)
        for table in ("log", "key"):
            await age(sql, 3601, table)
        assert (await it.backend.read("a", 0, 10, HOUR)).messages == ()
        (fresh,) = await it.bus.publish([Record("a", b"1", "k")])
        assert isinstance(fresh, Published)
        assert not fresh.replayed


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
    assert await trimmed(url, lambda _: HistoryWindow(size=1, ttl=2**31)) == 20 * 39
    assert await sql.fetchval("SELECT count(*) FROM abide.log") == 20
    assert await trimmed(url, lambda _: HistoryWindow(size=0, ttl=2**31)) == 20


async def test_names_that_nobody_uses_are_looked_at_slowly(
    url: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention rests after each page of channels that had nothing to delete, and not while there is."""
    monkeypatch.setattr(module, "_PAGE_CHANNELS", 10)
    await sql.execute("INSERT INTO abide.head SELECT 'c' || c, 40, abide.now_ms() FROM generate_series(10, 49) c")
    await sql.execute("INSERT INTO abide.log SELECT 'c' || c, 40, 1, 0, '1' FROM generate_series(20, 39) c")
    rests: list[float] = []

    async def sleep(seconds: float) -> None:
        rests.append(seconds)

    connection = WorkConnection(parse(url), "abide work")
    try:
        assert await trim(connection, lambda _: HOUR, sleep) == 20
    finally:
        await connection.close()
    assert len(rests) == 2
    assert all(0 < seconds <= 1 for seconds in rests)


async def test_one_worker_trims_at_a_time(url: str, sql: asyncpg.Connection) -> None:
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
    """Worker that could not trim says why, once for each reason, and trims the next time."""
    monkeypatch.setattr(module, "_EVERY_SECONDS", 0.01)
    await fill(url, 1)
    await age(sql, 90_000)
    await sql.execute("ALTER FUNCTION abide.trim RENAME TO away")
    with capture_logs() as logs:
        async with worker(url, ready=False):
            await until(lambda: "retention_failed" in [line["event"] for line in logs], "a line in the log")
            await asyncio.sleep(0.1)  # in which it fails again and again
            await postgres.execute("ALTER FUNCTION abide.away RENAME TO trim", database=database)
            await until(lambda: sql.fetchval("SELECT count(*) = 0 FROM abide.log"), "it trims again")
    reasons = [line["reason"] for line in logs if line["event"] == "retention_failed"]
    assert len(reasons) == len(set(reasons))


async def test_a_bug_is_logged_and_not_the_end(
    url: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker whose round of trimming raises what nobody expects logs it, and trims the next time."""
    monkeypatch.setattr(module, "_EVERY_SECONDS", 0.01)
    await fill(url, 1)
    await age(sql, 90_000)
    rounds = 0

    async def broken(connection: WorkConnection, retention: Retention) -> int:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            msg = "a bug"
            raise RuntimeError(msg)
        return await trim(connection, retention)

    monkeypatch.setattr(module, "trim", broken)
    with capture_logs() as logs:
        async with worker(url):
            await until(lambda: sql.fetchval("SELECT count(*) = 0 FROM abide.log"), "it trims")
    assert [line["log_level"] for line in logs if line["event"] == "retention_failed"] == ["error"]

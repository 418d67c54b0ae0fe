"""Every publish is answered within six seconds of its arrival, and nothing that was given up runs on."""

import asyncio
import contextlib
import time

import asyncpg
import pytest

from app.core.errors import MalformedError, OutcomeUnknownError, UnavailableError
from app.core.message import Published, Record
from app.core.ports import Outcome
from tests.support.postgres import PostgresServer
from tests.support.proxy import FaultProxy
from tests.support.readers import Worker, healthy, says, until, worker

pytestmark = pytest.mark.usefixtures("unretrieved")

SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'abide%' AND datname = current_database()"


async def timed(it: Worker, after: float) -> tuple[Outcome, float]:
    """Publish in so many seconds; return the outcome, and the seconds until it came."""
    await asyncio.sleep(after)
    began = time.monotonic()
    (outcome,) = await it.publish("a", "1")
    return outcome, time.monotonic() - began


async def test_a_dead_network(postgres: PostgresServer, database: str) -> None:
    """Publishers are answered in time over a network that says nothing any more: those who came first, and after."""
    async with contextlib.AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(FaultProxy("127.0.0.1", postgres.port))
        it = await stack.enter_async_context(worker(f"postgresql://postgres@127.0.0.1:{proxy.port}/{database}"))
        await it.publish("a", "0")
        proxy.half_open()
        answers = await asyncio.gather(*(timed(it, after) for after in (0.0, 0.1, 2.0, 4.9, 6.0)))
        assert max(seconds for _, seconds in answers) < 6
        assert all(isinstance(outcome, UnavailableError) for outcome, _ in answers)
        assert type(answers[0][0]) is OutcomeUnknownError  # it was sent
        assert type(answers[1][0]) is UnavailableError  # it was not
        assert "no answer in time" in await healthy(it.backend, ok=False)
        proxy.heal()
        await healthy(it.backend, seconds=6)
        assert isinstance((await timed(it, 0))[0], Published)


async def test_locks(url: str, sql: asyncpg.Connection) -> None:
    """Publishers are answered in time while a table is locked: nothing was stored. No session is left behind."""
    async with worker(url) as it, worker(url) as other:
        (reader,) = await it.follow("a")
        await sql.execute("BEGIN; LOCK TABLE abide.outbox, abide.log IN ACCESS EXCLUSIVE MODE")
        answers = await asyncio.gather(*(timed(it, after) for after in (0.0, 0.1, 2.0, 4.9, 6.0)))
        assert max(seconds for _, seconds in answers) < 6
        assert {type(outcome) for outcome, _ in answers} == {UnavailableError}
        assert not (await other.backend.health()).ok
        assert await sql.fetchval(SESSIONS) <= 8
        await sql.execute("ROLLBACK")
        await healthy(it.backend, seconds=6)
        assert isinstance((await timed(it, 0))[0], Published)
        assert await reader.until(1) == [b"1"]
        await until(lambda: sql.fetchval(f"SELECT ({SESSIONS}) <= 6"), "sessions end")


async def test_a_bad_message_alone(url: str, sql: asyncpg.Connection) -> None:
    """Message that the database refuses for its data fails alone: its neighbours are stored in order, keys and all."""
    await sql.execute("ALTER TABLE abide.log ADD CONSTRAINT sober CHECK (body NOT LIKE '%bad%')")
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        texts = ["bad" if number in (3, 17) else str(number) for number in range(20)]
        records = [
            Record("a", f'"{text}"'.encode(), key=f"k{number}" if number % 3 == 0 else None)
            for number, text in enumerate(texts)
        ]
        outcomes = [
            outcome for answer in await asyncio.gather(*(it.bus.publish([r]) for r in records)) for outcome in answer
        ]
        outcomes += await it.bus.publish([*records[:3], Record("b", b'"bad"'), *records[:1]])
        good = [text for text in texts if text != "bad"]
        refused = [number for number, outcome in enumerate(outcomes) if type(outcome) is MalformedError]
        assert refused == [3, 17, 23]
        assert str(outcomes[3]) == "the database does not take this message for its data (SQLSTATE 23514)"
        stored = [outcome for outcome in outcomes if isinstance(outcome, Published)]
        assert len(stored) == 22
        assert [outcome.replayed for outcome in stored][-4:] == [True, False, False, True]
        assert await reader.until(20) == [f'"{text}"'.encode() for text in [*good, "1", "2"]]
        assert (await it.backend.health()).ok


async def test_a_database_that_refuses_all_data_is_not_well(url: str, sql: asyncpg.Connection) -> None:
    """Worker whose database refuses whatever comes for its data says so, and is well when it takes it."""
    async with worker(url) as it:
        await sql.execute("ALTER TABLE abide.log ADD CONSTRAINT closed CHECK (n < 0) NOT VALID")
        assert type((await it.publish("a", "1"))[0]) is MalformedError
        assert "23514" in await says(it.backend, '"closed"', seconds=6)
        await sql.execute("ALTER TABLE abide.log DROP CONSTRAINT closed")
        await healthy(it.backend, seconds=6)

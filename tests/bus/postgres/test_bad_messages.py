"""What a database refuses for its data: a bad message alone, or all of them."""

import asyncio

import asyncpg
import pytest

from app.core.errors import MalformedError
from app.core.message import Published, Record
from tests.support.readers import ALL, healthy, says, worker

pytestmark = pytest.mark.usefixtures("unretrieved")


async def test_a_bad_message_fails_alone(url: str, sql: asyncpg.Connection) -> None:
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
        assert str(outcomes[3]) == "the database refuses the data of this message (SQLSTATE 23514)"
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


async def test_a_bad_message_from_sql_holds_up_none_before_it(url: str, sql: asyncpg.Connection) -> None:
    """Message from SQL that the database refuses holds up none before it, and readiness says where it is."""
    await sql.execute("ALTER TABLE abide.log ADD CONSTRAINT sober CHECK (body NOT LIKE '%bad%')")
    for text in ("1", "2", "3", '"bad"', "5"):
        await sql.execute("SELECT abide.publish('a', $1::text::jsonb)", text)
    async with worker(url, ready=False) as it:
        await says(it.backend, "the oldest row of abide.outbox is refused")
        page = await it.bus.read("a", 0, 10, ALL)
        assert [message.data for message in page.messages] == [b"1", b"2", b"3"]
        await sql.execute("DELETE FROM abide.outbox WHERE data LIKE '%bad%'")
        await healthy(it.backend, seconds=6)
        page = await it.bus.read("a", 0, 10, ALL)
        assert [message.data for message in page.messages] == [b"1", b"2", b"3", b"5"]

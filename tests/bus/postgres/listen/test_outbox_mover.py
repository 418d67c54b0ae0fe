"""Publishing from SQL: who moves it, when, and what is refused."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest

from app.bus.postgres.listen import outbox_mover
from app.core.data import read
from app.core.errors import MalformedError
from app.core.message import Published
from tests.bus.postgres.conftest import NEVER
from tests.support.readers import ALL, Ledger, until, worker, workers

pytestmark = pytest.mark.usefixtures("unretrieved")

LEADS = "SELECT holder FROM abide.turn WHERE what = 'lead' AND until > abide.now_ms()"
LED_OR_EMPTY = f"SELECT EXISTS ({LEADS}) OR NOT EXISTS (SELECT FROM abide.outbox)"  # noqa: S608 — a constant of ours
SAYS_AWAKE = "SELECT last_value > abide.now_ms() FROM abide.awake"
LOOK = "mode = 'RowExclusiveLock'"
"""What is in each statement that asks whether a transaction is still publishing, and in no other."""
LEAD = "UPDATE abide.turn SET holder = pg_backend_pid(), until = abide.now_ms() + {ms} WHERE what = 'lead'"


async def awake(sql: asyncpg.Connection, *, yes: bool = True) -> None:
    """Return when a drain is awake and says so, or none is."""

    async def turned() -> bool:
        led = bool(await sql.fetchval(LEADS))
        return led and await sql.fetchval(SAYS_AWAKE) if yes else not led

    await until(turned, f"a drain that is {'awake' if yes else 'asleep'}")


@pytest.fixture
async def bells(url: str) -> AsyncIterator[list[str]]:
    """Listen beside the server to how often SQL publishers ring."""
    heard: list[str] = []
    connection = await asyncpg.connect(url)
    await connection.add_listener("abide", lambda _, __, ___, payload: heard.append(payload))
    yield heard
    connection.terminate()


@pytest.mark.usefixtures("no_poll")
async def test_a_transaction_outlives_the_drain_that_it_saw_awake(
    url: str,
    sql: asyncpg.Connection,
    other: asyncpg.Connection,
    bells: list[str],
    statements: Callable[[str], int],
) -> None:
    """Transaction that rang no bell because the drain was awake is delivered when it commits long after."""
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        await sql.execute("SELECT abide.publish('a', '1')")
        await awake(sql)
        late = other.transaction()
        await late.start()
        await other.execute("SELECT abide.publish('a', '2')")
        await awake(sql, yes=False)
        looks = statements(LOOK)
        await until(lambda: statements(LOOK) >= looks + 3, "looks of a drain that sleeps")
        await late.commit()
        assert await reader.until(2) == [b"1", b"2"]
        assert bells.count("b") == 1


@pytest.mark.usefixtures("no_poll")
async def test_a_transaction_that_stays_open_costs_ever_fewer_looks(
    url: str, sql: asyncpg.Connection, other: asyncpg.Connection, statements: Callable[[str], int]
) -> None:
    """Drain that waits for a transaction to end looks less and less often."""
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        open_ = other.transaction()
        await open_.start()
        await other.execute("SELECT abide.publish('a', '\"late\"')")
        await sql.execute("SELECT abide.publish('a', '1')")
        await reader.until(1)
        await until(lambda: statements(LOOK), "a look")
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 4, "four seconds")
        assert statements(LOOK) < 15
        await sql.execute("SELECT abide.publish('a', '2')")
        await reader.until(2)
        await open_.commit()
        assert await reader.until(3) == [b"1", b"2", b'"late"']


@pytest.mark.usefixtures("no_poll")
async def test_a_bell_wakes_a_drain_at_once(
    url: str, sql: asyncpg.Connection, bells: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transaction that publishes while everybody sleeps is delivered for its bell, by no pause of the drain."""
    for pause in ("_WATCH_SECONDS", "_LOOK_SECONDS", "_AFTER_FAILURE_SECONDS"):
        monkeypatch.setattr(outbox_mover, pause, NEVER)
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        for number in range(3):
            await awake(sql, yes=False)
            await sql.execute("SELECT abide.publish('a', $1::int::text::jsonb)".replace("$1", str(number)))
            await reader.until(number + 1)
            await until(lambda number=number: bells.count("b") > number, "the bell")  # type: ignore[misc]
    assert bells.count("b") == 3


async def test_another_worker_takes_over(url: str, sql: asyncpg.Connection, other: asyncpg.Connection) -> None:
    """Worker takes over from the one that drained and stopped, even for who saw that one awake and rang no bell."""
    async with worker(url, name="second") as second, contextlib.AsyncExitStack() as first:
        (reader,) = await second.follow("a")
        await first.enter_async_context(worker(url, name="first"))
        await sql.execute("SELECT abide.publish('a', '1')")
        await awake(sql)
        late = other.transaction()
        await late.start()
        await other.execute("SELECT abide.publish('a', '2')")
        await first.aclose()
        await awake(sql, yes=False)
        await late.commit()
        assert await reader.until(2, seconds=3) == [b"1", b"2"]


async def test_a_killed_drain_is_replaced(url: str, sql: asyncpg.Connection) -> None:
    """Worker whose LISTEN, which leads, is killed while it drains moves the rest all the same."""
    ledger, killed = Ledger(71), 0
    async with workers(url, 2) as both:
        readers = [reader for it in both for reader in await it.follow("a")]
        for number in range(5):
            await sql.execute(
                "SELECT abide.publish('a', to_jsonb($1::text || i)) FROM generate_series(1, 200) i".replace(
                    "$1::text", f"'{number} '"
                )
            )
            ledger.committed["a"].update(f'"{number} {i}"'.encode() for i in range(1, 201))
            await until(lambda: sql.fetchval(LED_OR_EMPTY), "a drain, or nothing to drain")
            killed += len(await sql.fetch(LEADS.replace("holder", "pg_terminate_backend(holder)", 1)))
        await ledger.check(url, readers)
    assert killed > 0


@pytest.mark.usefixtures("no_poll")
async def test_a_drain_that_died_is_believed_awake_for_a_moment_only(url: str, sql: asyncpg.Connection) -> None:
    """Publisher rings again when the time has passed that a dead drain had given, and all is delivered."""
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        async with sql.transaction():
            await sql.execute("SELECT abide.stay_awake(300)")
            await sql.execute("SELECT abide.publish('a', '1')")
            assert await sql.fetchval(SAYS_AWAKE)
        await sql.execute("SELECT pg_sleep(0.35)")
        assert reader.log == []
        await sql.execute("SELECT abide.publish('a', '2')")
        assert await reader.until(2, seconds=2) == [b"1", b"2"]


@pytest.mark.usefixtures("no_poll")
async def test_who_heard_the_bell_takes_over(url: str, sql: asyncpg.Connection) -> None:
    """Worker that heard a bell looks along with one that is awake but stuck, and takes over when it has gone."""
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        await sql.execute(LEAD.format(ms=30_000))
        await sql.execute("SELECT abide.publish('a', '1')")
        await reader.until(1, seconds=2)
        await sql.execute("SELECT abide.stay_awake(60000)")
        await sql.execute("SELECT abide.publish('a', '2')")
        await reader.until(2, seconds=2)
        await sql.execute(LEAD.format(ms=100))
        await until(lambda: sql.fetchval("SELECT last_value = 0 FROM abide.awake"), "a drain that says it sleeps")
        await sql.execute("SELECT abide.publish('a', '3')")
        assert await reader.until(3, seconds=2) == [b"1", b"2", b"3"]


async def test_a_bell_that_nobody_hears_is_not_needed(url: str, sql: asyncpg.Connection) -> None:
    """Message published from SQL while no worker runs is stored by the first that starts."""
    await sql.execute("SELECT abide.publish('a', to_jsonb(i)) FROM generate_series(1, 3) i")
    async with worker(url) as it:
        await until(lambda: sql.fetchval("SELECT count(*) = 0 FROM abide.outbox"), "an empty outbox")
        assert [message.data for message in (await it.bus.read("a", 0, 10, ALL)).messages] == [b"1", b"2", b"3"]


async def test_a_rollback_leaves_nothing(url: str, sql: asyncpg.Connection) -> None:
    """Transaction or savepoint that is rolled back publishes nothing, whatever it rang."""
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        await sql.execute("BEGIN; SELECT abide.publish('a', '\"gone\"'); ROLLBACK")
        await sql.execute(
            "BEGIN; SELECT abide.publish('a', '1'); SAVEPOINT s; SELECT abide.publish('a', '\"gone\"', 'k');"
            " ROLLBACK TO s; SELECT abide.publish('a', '2', 'k'); COMMIT"
        )
        assert await reader.until(2) == [b"1", b"2"]
        assert await sql.fetchval("SELECT count(*) FROM abide.outbox") == 0


async def test_a_worker_that_leads_and_does_nothing_stops_nobody(url: str, sql: asyncpg.Connection) -> None:
    """Worker that hangs while it leads, or led before the clock was set back, delays SQL publishers only."""
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        for number, ms in enumerate((30_000, 86_400_000), 1):
            await sql.execute(LEAD.format(ms=ms))
            await sql.execute(f"SELECT abide.publish('a', '{number}')")
            await reader.until(number, seconds=3)


async def test_two_drains_at_once_move_everything_once(sql: asyncpg.Connection, other: asyncpg.Connection) -> None:
    """Drain that finds another at it does not wait, moves nothing and says that it does not know."""
    await sql.execute("SELECT abide.publish('a', to_jsonb(i)) FROM generate_series(1, 3) i")
    transaction = sql.transaction()
    await transaction.start()
    assert await sql.fetchval("SELECT drained FROM abide.drain(2, true)") == 2
    assert await other.fetchval("SELECT drained FROM abide.drain(1000, true)") is None
    await transaction.commit()
    assert await other.fetchval("SELECT drained FROM abide.drain(1000, true)") == 1
    assert await other.fetchval("SELECT drained FROM abide.drain(1000, true)") == 0
    assert await other.fetchval("SELECT head FROM abide.head") == 3


async def test_the_drain_locks_heads_in_the_order_of_names(sql: asyncpg.Connection, other: asyncpg.Connection) -> None:
    """Drain of new and old channels with keys and a commit of the same ones never wait for each other."""
    append = (
        "SELECT * FROM abide.append(ARRAY['{0}'], '{{1}}', '{{1}}', '{{1}}', '{{1}}', ARRAY['0'], '{{f}}',"
        " '{{}}', '{{}}', '{{}}', '{{}}')"
    )
    await sql.execute(append.format("a"))
    await other.execute("SELECT abide.publish('c', '1', 'k'), abide.publish('a', '1')")
    transaction = sql.transaction()
    await transaction.start()
    await sql.execute(append.format("a"))
    draining = asyncio.create_task(other.fetchval("SELECT drained FROM abide.drain(1000, true)"))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    await until(lambda: sql.fetchval(waiting), "a drain that waits")
    await sql.execute(append.format("c"))
    await transaction.commit()
    assert await draining == 2
    assert {tuple(row) for row in await sql.fetch("SELECT channel, head FROM abide.head")} == {("a", 3), ("c", 2)}


async def test_a_large_transaction_keeps_its_order(url: str, sql: asyncpg.Connection) -> None:
    """Transaction of thousands of messages, small and of a megabyte, is delivered whole and in its order."""
    async with worker(url) as it:
        readers = await it.follow("a", "b", "c")
        async with sql.transaction():
            await sql.execute(
                "SELECT abide.publish(substr('abc', i % 3 + 1, 1), to_jsonb(i || repeat('é', i % 7 * 200)))"
                " FROM generate_series(1, 3000) i"
            )
            for number in range(6):
                await sql.execute("SELECT abide.publish('a', to_jsonb($1::text))", f"{number}".ljust(1_000_000, "."))
        for remainder, reader in enumerate(readers):
            log = await reader.until(1006 if remainder == 0 else 1000)
            numbers = [int(json.loads(data).rstrip("é")) for data in log[:1000]]
            assert numbers == [number for number in range(1, 3001) if number % 3 == remainder]
            assert reader.faults == []
        assert [data[:2] for data in readers[0].log[1000:]] == [f'"{number}'.encode() for number in range(6)]


async def test_what_is_published_from_sql_is_json(url: str, sql: asyncpg.Connection) -> None:
    """Message from SQL is the text of its jsonb; whatever that holds, neighbours stay apart."""
    texts = ['{"a": "\\u001e\\n"}', '"ツ🎳"', "null", "[1, 2.50, true]", '"\\\\u001e"']
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        async with sql.transaction():
            for text in texts:
                await sql.execute("SELECT abide.publish('a', $1::text::jsonb)", text)
        assert [data.decode() for data in await reader.until(len(texts))] == texts


async def test_sql_takes_what_http_takes(sql: asyncpg.Connection) -> None:
    """Publisher in SQL is refused exactly the texts that one over HTTP is; what is taken keeps its bytes."""
    for text in TEXTS:
        taken = []
        with contextlib.suppress(MalformedError):
            taken.append(await read(text.encode()))
        for cast in ("", "::json"):
            with contextlib.suppress(
                asyncpg.DataError, asyncpg.ProgramLimitExceededError, asyncpg.StatementTooComplexError
            ):
                await sql.execute(f"SELECT abide.publish('a', $1::text{cast})", text)
            found = [row["data"].encode() for row in await sql.fetch("DELETE FROM abide.outbox RETURNING data")]
            assert found == taken, f"{text[:40]!r}{cast}"


async def test_a_literal_and_a_parameter_are_text(sql: asyncpg.Connection) -> None:
    """Publisher that says no type passes text, which keeps its bytes; jsonb has its own way to write."""
    text = '{"b": 1.0,  "a": 1e2}'
    await sql.execute(f"SELECT abide.publish('a', '{text}'), abide.publish('a', '{text}', 'key')")
    await sql.execute("SELECT abide.publish($1, $2, $3)", "a", text, None)
    await sql.execute("SELECT abide.publish(data => $1::json, channel => 'a')", text)
    await sql.execute("SELECT abide.publish('a', $1::jsonb)", text)
    found = [row["data"] for row in await sql.fetch("SELECT data FROM abide.outbox ORDER BY seq")]
    assert found == [text, text, text, text, '{"a": 100, "b": 1.0}']


TYPES = {
    "a number": ("17", "integer"),
    "a row": ("ROW(1, 2)", "record"),
    "an array that looks like an object": ("ARRAY[]::integer[]", "integer[]"),
    "a type of somebody's own": ("public.mine('x')", "public.mine"),
}


@pytest.mark.parametrize("what", TYPES)
async def test_data_of_another_type_is_refused(sql: asyncpg.Connection, what: str) -> None:
    """Publisher that passes anything but JSON is told how to make it of that, and no cast of its own is run."""
    argument, name = TYPES[what]
    await sql.execute("""
        CREATE TYPE public.mine AS (v text);
        CREATE FUNCTION public.mine(v text) RETURNS public.mine LANGUAGE sql AS 'SELECT ROW(v)::public.mine';
        CREATE FUNCTION public.trap(public.mine) RETURNS text LANGUAGE plpgsql IMMUTABLE
            AS $$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$;
        CREATE CAST (public.mine AS text) WITH FUNCTION public.trap(public.mine);
    """)
    with pytest.raises(asyncpg.DatatypeMismatchError) as refused:
        await sql.execute(f"SELECT abide.publish('a', {argument})")
    assert f"data of type {name} is not taken: pass json, jsonb, or text that is JSON" in str(refused.value)


async def test_a_known_key_from_sql_publishes_nothing(url: str, sql: asyncpg.Connection) -> None:
    """Message from SQL with a key that was used in SQL before is dropped, and one with an expired key is not."""
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        await sql.execute("SELECT abide.publish('a', '1', 'k'), abide.publish('a', '2', 'l')")
        assert await reader.until(2) == [b"1", b"2"]
        await sql.execute("SELECT abide.publish('a', '1', 'k'), abide.publish('a', '\"another\"', 'l')")
        await sql.execute("SELECT abide.publish('a', '3')")
        assert await reader.until(3) == [b"1", b"2", b"3"]
        await sql.execute("UPDATE abide.key SET time = time - 600001")
        await sql.execute("SELECT abide.publish('a', '1', 'k')")
        assert await reader.until(4) == [b"1", b"2", b"3", b"1"]


async def test_a_key_that_a_stranger_took_is_free_in_sql(url: str, sql: asyncpg.Connection) -> None:
    """Message from SQL is published under a key that somebody has used over HTTP, and the other way round."""
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        await it.publish("a", "1", key="order-17")
        await sql.execute("SELECT abide.publish('a', '2', 'order-17')")
        assert await reader.until(2) == [b"1", b"2"]
        await sql.execute("SELECT abide.publish('a', '3', 'order-18')")
        await reader.until(3)
        (outcome,) = await it.publish("a", "4", key="order-18")
        assert isinstance(outcome, Published)
        assert (outcome.position.offset, outcome.replayed) == (4, False)


DEEP = "[" * 128 + "]" * 128

TEXTS = (
    "null", " 1 ", "-0", "1e400", "1e999999", "1234567890123456789012345678901", '"\\u0000"', '"\\ud800"', '"\\udc00"',
    '{"b":1,  "a":[ ],"a":2}', "[\n1\t,\r2]", '"\u2028\x7f"', DEEP, DEEP.replace("[]", "[1]"),
    '{"a":' * 128 + "1" + "}" * 128, '["[[", "\\"[{"]' , "[" + '"[[",' * 300 + "1]", "[" + "[]," * 300 + "[]]",
    "", " ", "nul", "NaN", "Infinity", "-", "01", "1.", ".5", "+1", "1e", "'a'", '"', '"\t"', '"\x1e"', "\x1e1",
    "1\x1e2", "\ufeff1", '"\\x41"', '"\\u12"', "[1,]", "{1:2}", '{"a"}', "1 2", "[", "]", "{]", "\u00a01", "\x0b1",
    f"[{DEEP}]", "[" * 1200 + "]" * 1200, '{"a":' * 129 + "1" + "}" * 129, "[" * 20_000 + "]" * 20_000,
)  # fmt: skip
"""What is JSON, and what is not."""

BIG = "to_jsonb(repeat('x', 1048575))"

REFUSALS = {
    "no channel": ("NULL, '1'", "NULL is not a channel"),
    "an empty name": ("'', '1'", "'' is not a channel: a name has 1 to 255 letters"),
    "a space in the name": ("'a b', '1'", "'a b' is not a channel"),
    "a line break after the name": ("E'a\\n', '1'", "is not a channel"),
    "a letter that is not ASCII": ("'café', '1'", "'café' is not a channel"),
    "a name that is too long": ("repeat('x', 256), '1'", "is not a channel"),
    "no data": ("'a', NULL", "the data for channel a is NULL: publish 'null'::jsonb"),
    "too much data": (f"'a', {BIG}", "the message for channel a has 1048577 bytes: at most 1048576 fit"),
    "too much data as text": ("'a', repeat('[', 9000000)", "the message for channel a has 9000000 bytes"),
    "data that is nested too deep": (f"'a', '[{DEEP}]'::jsonb", "for channel a is nested more than 128 deep"),
    "text that is nested too deep": (f"'a', '[{DEEP}]'", "for channel a is nested more than 128 deep"),
    "an empty key": ("'a', '1', ''", "an idempotency key is 1 to 255 visible ASCII characters"),
    "a space in the key": ("'a', '1', 'a b'", "an idempotency key is 1 to 255"),
    "a key that is too long": ("'a', '1', repeat('k', 256)", "an idempotency key is 1 to 255"),
}


@pytest.mark.parametrize("what", REFUSALS)
async def test_what_cannot_be_published_is_refused_in_the_transaction(sql: asyncpg.Connection, what: str) -> None:
    """Publisher in SQL is told what is wrong in its transaction, which decides what becomes of the rest."""
    arguments, text = REFUSALS[what]
    async with sql.transaction():
        await sql.execute("SELECT abide.publish('a', '1')")
        with pytest.raises(asyncpg.PostgresError, match=r"abide\.publish: ") as refused:
            async with sql.transaction():
                await sql.execute(f"SELECT abide.publish({arguments})")
        assert text in str(refused.value)
        assert len(str(refused.value)) < 500
    assert await sql.fetchval("SELECT count(*) FROM abide.outbox") == 1


TRAP = """
CREATE FUNCTION {schema}.{name}({types}) RETURNS {returns} LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'trapped by {name}'; END $$;
"""
FUNCTIONS = {
    "octet_length": ("text", "integer"),
    "to_timestamp": ("double precision", "timestamptz"),
    "clock_timestamp": ("", "timestamptz"),
    "pg_sequence_last_value": ("regclass", "bigint"),
    "pg_notify": ("text, text", "void"),
    "now_ms": ("", "bigint"),
}
OPERANDS = ("text", "integer", "bigint", "double precision", "timestamptz", "boolean")
OPERATORS = {"~": "match", "!~": "nomatch", "=": "equal", "<>": "differ", "<": "less", "<=": "most", ">": "more",
             ">=": "least", "/": "divide", "*": "multiply", "||": "join"}  # fmt: skip


async def test_a_publisher_cannot_slip_its_own_functions_in(url: str, sql: asyncpg.Connection) -> None:
    """Publisher whose search_path begins with namesakes of all that abide.publish uses runs none of them."""
    await sql.execute("CREATE SCHEMA trap; CREATE DOMAIN trap.text AS pg_catalog.int4 CHECK (false)")
    for name, (types, returns) in FUNCTIONS.items():
        await sql.execute(TRAP.format(schema="trap", name=name, types=types, returns=returns))
    for operator, name in OPERATORS.items():
        for operand in OPERANDS:
            types = f"pg_catalog.{operand}, pg_catalog.{operand}" if operand == "text" else f"{operand}, {operand}"
            await sql.execute(TRAP.format(schema="trap", name=name, types=types, returns="boolean"))
            left, right = types.split(", ")
            await sql.execute(
                f"CREATE OPERATOR trap.{operator} (FUNCTION = trap.{name}, LEFTARG = {left}, RIGHTARG = {right})"
            )
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        await sql.execute("SET search_path = trap, pg_catalog, abide")
        with pytest.raises(asyncpg.PostgresError, match="trapped by"):
            await sql.execute("SELECT octet_length('x'::pg_catalog.text) > 1")
        await sql.execute("SELECT abide.publish('a', '1', 'k')")
        await sql.execute("SELECT abide.publish('a', '2')")
        assert await reader.until(2) == [b"1", b"2"]
        with pytest.raises(asyncpg.PostgresError, match=r"abide\.publish: 'a b' is not a channel"):
            await sql.execute("SELECT abide.publish('a b', '1')")
        await sql.execute("RESET search_path")


async def test_the_bounds_can_be_published(url: str, sql: asyncpg.Connection) -> None:
    """Message of exactly a mebibyte, with the longest name and key, is delivered."""
    async with worker(url) as it:
        (reader,) = await it.follow("x" * 255)
        await sql.execute("SELECT abide.publish(repeat('x', 255), to_jsonb(repeat('x', 1048574)), repeat('~', 255))")
        assert [len(data) for data in await reader.until(1)] == [1024 * 1024]


async def test_a_commit_is_on_disk(sql: asyncpg.Connection) -> None:
    """Commit waits for the disk, whatever the database's default is."""
    await sql.execute("SET synchronous_commit = off")
    async with sql.transaction():
        await sql.execute("SELECT abide.publish('a', '1')")
        assert await sql.fetchval("SHOW synchronous_commit") == "off"
        await sql.execute("SELECT abide.drain(1, true)")
        assert await sql.fetchval("SHOW synchronous_commit") == "on"
    assert await sql.fetchval("SHOW synchronous_commit") == "off"

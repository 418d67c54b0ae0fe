"""Every way in which a transaction in SQL may publish: each either publishes or says why not, and none by chance."""

import asyncio
import json
from collections.abc import Iterator

import asyncpg
import pytest
from structlog.testing import capture_logs

from app.bus.postgres import migrate
from app.bus.postgres import sql as files
from tests.support.postgres import PostgresServer
from tests.support.readers import until, worker

SETTINGS = {"max_prepared_transactions": "8", "wal_level": "logical"}


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """Run a server on which transactions can be prepared, and rows replicated."""
    with PostgresServer(settings=SETTINGS) as server:
        yield server


@pytest.fixture(scope="module")
def template(postgres: PostgresServer) -> str:
    name = asyncio.run(postgres.create_database())
    asyncio.run(migrate(postgres.url(name)))
    return name


async def test_a_prepared_transaction_publishes_when_it_is_committed(
    url: str, sql: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    """Transaction that is prepared publishes when it is committed, whether or not anybody was awake before."""
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        for number in range(2):  # at first nobody is awake, then somebody is
            await sql.execute(f"BEGIN; SELECT abide.publish('a', '{number}'); PREPARE TRANSACTION 'kept {number}'")
            await sql.execute("BEGIN; SELECT abide.publish('a', '\"gone\"'); PREPARE TRANSACTION 'gone'")
            assert reader.log == [str(before).encode() for before in range(number)]
            await other.execute("ROLLBACK PREPARED 'gone'")
            await other.execute(f"COMMIT PREPARED 'kept {number}'")
            await reader.until(number + 1)
        assert reader.log == [b"0", b"1"]


TRIGGER = """
    CREATE TABLE public.t (v integer);
    CREATE FUNCTION public.tell() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN PERFORM abide.publish('a', to_jsonb(NEW.v)); RETURN NULL; END $$;
"""

WAYS = {
    "a procedure that commits on its way": [
        """
        DO $$ BEGIN
            PERFORM abide.publish('a', '1'); COMMIT;
            PERFORM abide.publish('a', '"gone"'); ROLLBACK;
            PERFORM abide.publish('a', '2');
        END $$
        """,
        "SELECT abide.publish('a', '3')",
    ],
    "a block that catches an error": [
        """
        DO $$ BEGIN
            PERFORM abide.publish('a', '1');
            BEGIN
                PERFORM abide.publish('a', '"gone"');
                RAISE EXCEPTION 'no';
            EXCEPTION WHEN raise_exception THEN
                PERFORM abide.publish('a', '2');
            END;
            PERFORM abide.publish('a', '3');
        END $$
        """,
    ],
    "a savepoint in which a publish is refused": [
        (
            "BEGIN; SELECT abide.publish('a', '1'); SAVEPOINT s; SELECT abide.publish('a', '\"gone\"'); ROLLBACK TO s;"
            " SELECT abide.publish('a', '2'); RELEASE s; SELECT abide.publish('a', '3'); COMMIT"
        ),
    ],
    "a trigger that is deferred to the commit": [
        TRIGGER,
        (
            "CREATE CONSTRAINT TRIGGER tell AFTER INSERT ON public.t DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION public.tell()"
        ),
        "BEGIN; INSERT INTO public.t VALUES (1), (2), (3); COMMIT",
    ],
    "a trigger of a session that replicates": [
        TRIGGER,
        (
            "CREATE TRIGGER tell AFTER INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.tell();"
            " ALTER TABLE public.t ENABLE ALWAYS TRIGGER tell"
        ),
        "SET session_replication_role = replica; SET search_path = pg_catalog",
        "INSERT INTO public.t SELECT generate_series(1, 3)",
    ],
    "a function with a search_path of its own": [
        (
            "CREATE FUNCTION public.tell(v integer) RETURNS void LANGUAGE sql SET search_path = ''"
            " AS $$ SELECT abide.publish('a', pg_catalog.to_jsonb(v)) $$"
        ),
        "SELECT public.tell(i) FROM generate_series(1, 3) i",
    ],
    "data of each type that is taken": [
        "CREATE DOMAIN public.event AS jsonb",
        "SELECT abide.publish('a', '1'::varchar), abide.publish('a', '2'::public.event), abide.publish('a', json '3')",
    ],
}


@pytest.mark.parametrize("way", WAYS)
async def test_what_a_transaction_may_do_it_may_publish_in(url: str, sql: asyncpg.Connection, way: str) -> None:
    """Transaction of every kind publishes what it commits, in its order, and nothing that it takes back."""
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        for statement in WAYS[way]:
            await sql.execute(statement)
        assert await reader.until(3) == [b"1", b"2", b"3"]


async def test_rows_that_are_copied_in_publish(url: str, sql: asyncpg.Connection) -> None:
    """Trigger publishes each row of a COPY, in their order."""
    await sql.execute("""
        CREATE TABLE t (v integer);
        CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN PERFORM abide.publish('a', to_jsonb(NEW.v)); RETURN NULL; END $$;
        CREATE TRIGGER tell AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION tell();
    """)
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        await sql.copy_records_to_table("t", records=[(number,) for number in range(3000)])
        assert await reader.until(3000) == [str(number).encode() for number in range(3000)]


async def test_who_may_only_read_is_told_so(sql: asyncpg.Connection) -> None:
    """Publisher in a transaction that may not write, as every one on a standby, is told by the SQLSTATE for that."""
    async with sql.transaction(readonly=True):
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await sql.execute("SELECT abide.publish('a', '1')")


async def test_serializable_transactions_do_not_fail_for_the_outbox(
    url: str, postgres: PostgresServer, database: str
) -> None:
    """Publishers of which each is serializable, as the worker is by the database's default, all commit."""
    await postgres.execute(f'ALTER DATABASE "{database}" SET default_transaction_isolation = serializable')
    connections = [await asyncpg.connect(url) for _ in range(4)]
    await connections[0].execute("CREATE TABLE public.t (id integer, v integer)")

    async def publish(number: int) -> None:
        connection = connections[number]
        for i in range(50):
            async with connection.transaction():
                await connection.execute("INSERT INTO public.t VALUES ($1, $2)", number, i)
                await connection.execute("SELECT abide.publish('a', to_jsonb($1::int))", number)

    async with worker(url) as it:
        (reader,) = await it.follow("a")
        await asyncio.gather(*map(publish, range(4)))
        assert sorted(await reader.until(200)) == sorted(str(n).encode() for n in range(4) for _ in range(50))
    for connection in connections:
        connection.terminate()


async def test_an_outbox_that_was_replicated_goes_on(
    sql: asyncpg.Connection, postgres: PostgresServer, database: str, template: str
) -> None:
    """Publishers after a switch by logical replication are never refused, and what each published keeps its order."""
    name = await postgres.create_database(template)
    target = await asyncpg.connect(postgres.url(name))
    await sql.execute("CREATE PUBLICATION p FOR TABLE abide.outbox")
    await sql.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
    await target.execute(
        f"CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port={postgres.port} user=postgres dbname={database}'"
        " PUBLICATION p WITH (create_slot = false, slot_name = 's', copy_data = false)"
    )
    await sql.execute("SELECT abide.publish('a', to_jsonb('old ' || i)) FROM generate_series(1, 1300) i")
    await sql.execute("SELECT abide.drain(100, true)")  # what is deleted here is deleted there
    replicated = "SELECT count(*) = 1200 FROM abide.outbox"
    await until(lambda: target.fetchval(replicated), "a replicated outbox")
    await target.execute("DROP SUBSCRIPTION s")
    await target.execute("SELECT abide.publish('a', to_jsonb('new ' || i)) FROM generate_series(1, 150) i")
    async with worker(postgres.url(name)):
        await target.execute("SELECT abide.publish('a', to_jsonb('new ' || i)) FROM generate_series(151, 200) i")
        await until(lambda: target.fetchval("SELECT NOT EXISTS (SELECT FROM abide.outbox)"), "an empty outbox")
        await target.execute("SELECT abide.publish('a', '\"new 201\"')")
        await until(lambda: target.fetchval("SELECT head = 1401 FROM abide.head"), "all that was published")
        page = await target.fetch("SELECT body FROM abide.log ORDER BY last")
    told = [json.loads(text) for row in page for text in row["body"].split("\x1e")]
    for kind, numbers in (("old", range(101, 1301)), ("new", range(1, 202))):
        assert [text for text in told if text.startswith(kind)] == [f"{kind} {number}" for number in numbers]
    await target.close()


async def test_what_somebody_put_into_the_outbox_stops_nobody(url: str, sql: asyncpg.Connection) -> None:
    """Row that abide.publish has not checked is sent as JSON or dropped with a line in the log, and stops no other."""
    deep = "[" * 1200 + "]" * 1200
    bad = [
        ("a", "not JSON", None), ("a", "", None), ("a", deep, None), ("a", "1\x1e2", None), ("a", "NaN", None),
        ("a b", "1", None), ("x" * 300, "1", None), ("a", "1", "k" * 9000), ("a", "1", ""),
        ("a", "1" * 2_000_000, None), ("a", "\x01" * 500_000, None), ("a", ' { "kept": 1.50 } ', None),
    ]  # fmt: skip
    await sql.executemany("INSERT INTO abide.outbox (channel, data, key) VALUES ($1, $2, $3)", bad)
    for seq, data in ((-5, "0"), (2**63 - 1, '"last"')):
        numbered = "INSERT INTO abide.outbox (seq, channel, data) OVERRIDING SYSTEM VALUE VALUES ($1, 'a', $2)"
        await sql.execute(numbered, seq, data)
    with capture_logs() as logs:
        async with worker(url) as it:
            await until(lambda: sql.fetchval("SELECT NOT EXISTS (SELECT FROM abide.outbox)"), "an empty outbox")
            await sql.execute("SELECT abide.publish('a', '1')")
            await until(lambda: sql.fetchval("SELECT head = 9 FROM abide.head"), "what was published after")
            (reader,) = await it.follow("a")
            await sql.execute("SELECT abide.publish('a', '2')")
            assert await reader.until(1) == [b"2"]
    rows = await sql.fetch("SELECT body FROM abide.log ORDER BY last")
    texts = [text for row in rows for text in row["body"].split("\x1e")]
    strings = [json.dumps(text, ensure_ascii=False) for text in ("not JSON", "", deep, "1\x1e2", "NaN")]
    assert texts == ["0", *strings, ' { "kept": 1.50 } ', '"last"', "1", "2"]
    dropped = [str(line["detail"]) for line in logs if line["event"] == "outbox_row_dropped"]
    assert len(dropped) == 6
    assert all("of abide.outbox, for channel '" in line and "is dropped: its " in line for line in dropped)


async def test_a_publisher_that_is_open_does_not_hold_up_the_others_for_an_upgrade(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Migration that finds a transaction open which has published gives up soon, and says whom to end."""
    name = await postgres.create_database()
    every = files.migrations()
    with monkeypatch.context() as patch:
        patch.setattr(files, "migrations", lambda: every[:4])
        await migrate(postgres.url(name))
    connection = await asyncpg.connect(postgres.url(name))
    await connection.execute("CREATE ROLE app_of_migration")
    await connection.execute("GRANT USAGE ON SCHEMA abide TO app_of_migration")
    await connection.execute("GRANT EXECUTE ON FUNCTION abide.publish TO app_of_migration WITH GRANT OPTION")
    await connection.execute(
        "CREATE FUNCTION public.bound() RETURNS void BEGIN ATOMIC SELECT abide.publish('a', '2'::jsonb); END"
    )
    await connection.execute("BEGIN; SELECT abide.publish('a', '1')")
    with pytest.raises(Exception, match=r"a transaction that has called abide\.publish is still open: end it"):
        await migrate(postgres.url(name))
    await connection.execute("COMMIT")
    await migrate(postgres.url(name))
    await connection.execute("SELECT public.bound()")
    await connection.execute("SET ROLE app_of_migration; SELECT abide.publish('a', '3'::json)")
    await connection.execute("GRANT EXECUTE ON FUNCTION abide.publish TO PUBLIC; RESET ROLE")
    assert [row[0] for row in await connection.fetch("SELECT data FROM abide.outbox ORDER BY seq")] == ["1", "2", "3"]
    await connection.execute("DROP OWNED BY app_of_migration; DROP ROLE app_of_migration")
    await connection.close()

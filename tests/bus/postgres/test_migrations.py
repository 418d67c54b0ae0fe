"""The schema: how it comes, is kept and refused, and which rights its users need."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import asyncpg
import pytest
from structlog.testing import capture_logs

from app.bus.postgres import PostgresBackend, migrate
from app.bus.postgres import sql as files
from app.bus.postgres.retention import trim
from app.bus.postgres.sessions.dsn import parse
from app.bus.postgres.sessions.work_connection import WorkConnection
from app.core.errors import UnavailableError
from app.core.message import Published, Record
from tests.support.postgres import PostgresServer
from tests.support.readers import ALL, healthy, says, until, worker

STEPS = [step.name for step in files.migrations()]

LANDED = {
    "0001_log.sql": "63b939ecb4c6d5aafd75f3b8df03246ac65ca2ba1c3a57f66b19829f9d29c397",
    "0002_outbox.sql": "20195a7d081c30bc2ed21ab84c62231a0acc1e4d19b7a2bd906a459559981ba1",
    "0003_lone_messages.sql": "3378d546afb01a537528af77be829d61ec7dac86f493be520357d757587bcc24",
    "0004_neighbours.sql": "b0e4fcd9a6c65789a739ff6d559d89dc0ad90a98b1bb1825ad7236ed71f9ee1a",
    "0005_epochs.sql": "c66ee87aa016cb9f1c65736ddadf6b7f372eea8f33486d10d49ff4ec144a99dd",
    "0006_publishing.sql": "9ec12ec937d596e617ca3dea95c1b066975cc1e07d024ff66b9e7dc1db147ed5",
    "0007_taking_back.sql": "33365d8db5cca19b1474acad45de0fb628e38b36a4cdf0f288559a198872cb02",
}
"""The SHA-256 of each step as it landed. A step that comes is added, one that is here stays as it is."""

SQL_PUBLISHER = """
GRANT USAGE ON SCHEMA abide TO {role};
GRANT EXECUTE ON FUNCTION abide.publish TO {role};
"""

WORKER = """
GRANT USAGE ON SCHEMA abide TO {role};
GRANT SELECT ON abide.epoch, abide.installation, abide.head, abide.log, abide.outbox, abide.seal TO {role};
GRANT EXECUTE ON FUNCTION
    abide.append, abide.append_one, abide.drain, abide.enter, abide.lead, abide.stay_awake, abide.store,
    abide.store_one, abide.trim TO {role};
"""

VERSION_2 = """
GRANT USAGE ON SCHEMA abide TO {role};
GRANT SELECT ON abide.installation, abide.head, abide.log, abide.outbox TO {role};
GRANT EXECUTE ON FUNCTION abide.append, abide.drain, abide.stay_awake, abide.trim TO {role};
"""
"""What a server's role needed then."""


@pytest.fixture
async def empty(postgres: PostgresServer) -> AsyncIterator[str]:
    """Make a database without the schema."""
    name = await postgres.create_database()
    yield name
    await postgres.drop_database(name)


def as_role(url: str, role: str) -> str:
    return url.replace("postgres@", f"{role}@")


async def test_a_fresh_database_gets_every_step_and_then_none(postgres: PostgresServer, empty: str) -> None:
    """Migration takes every step once, and keeps the epoch when it is repeated."""
    assert await migrate(postgres.url(empty)) == STEPS
    before = await postgres.execute("SELECT version, epoch FROM abide.installation", database=empty)
    assert before[0][0] == len(STEPS)
    assert await migrate(postgres.url(empty)) == []
    assert await postgres.execute("SELECT version, epoch FROM abide.installation", database=empty) == before


async def test_an_older_schema_is_upgraded(
    postgres: PostgresServer, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Migration of an older schema takes the steps that it lacks."""
    every = files.migrations()
    with monkeypatch.context() as patch:
        patch.setattr(files, "migrations", lambda: every[:1])
        assert await migrate(postgres.url(empty)) == STEPS[:1]
    assert await migrate(postgres.url(empty)) == STEPS[1:]


def test_steps_that_landed_are_as_they_were() -> None:
    """Steps never change: a database that has taken one would not get what is put into it later."""
    steps = {step.name: hashlib.sha256(step.sql.encode()).hexdigest() for step in files.migrations()}
    assert steps == LANDED


async def test_a_server_without_rights_to_the_schema_goes_on_after_an_upgrade(
    postgres: PostgresServer, empty: str, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Role that was granted what version 2 had serves as before, with nothing granted anew, on the newest."""
    every = files.migrations()
    with monkeypatch.context() as patch:
        patch.setattr(files, "migrations", lambda: every[:2])
        await migrate(postgres.url(empty))
    for grant in VERSION_2.format(role=role).strip().split("\n"):
        await postgres.execute(grant, database=empty)
    with capture_logs() as logs:
        async with worker(as_role(postgres.url(empty), role), ready=False) as it:
            await says(it.backend, "run 'abide migrate' with a role that may")
            assert await migrate(postgres.url(empty)) == STEPS[2:]
            await healthy(it.backend)
            (reader,) = await it.follow("a")
            assert isinstance((await it.publish("a", "1"))[0], Published)
            await postgres.execute("SELECT abide.publish('a', '2')", database=empty)
            assert await reader.until(2) == [b"1", b"2"]
    assert {line["event"] for line in logs if line["log_level"] != "info"} == {"not_listening"}


@pytest.mark.parametrize("upgrade", [(2, "superuser"), (2, "member"), (3, "superuser"), (3, "member")])
async def test_an_upgrade_by_another_role_leaves_all_to_the_owner(
    postgres: PostgresServer, empty: str, role: str, monkeypatch: pytest.MonkeyPatch, upgrade: tuple[int, str]
) -> None:
    """Migration by a superuser or a member of the owner leaves one owner of everything, and servers go on."""
    (version, by), every = upgrade, files.migrations()
    await postgres.execute(f"CREATE SCHEMA abide AUTHORIZATION {role}", database=empty)
    with monkeypatch.context() as patch:
        patch.setattr(files, "migrations", lambda: every[:version])
        await migrate(as_role(postgres.url(empty), role))
    member = f"{role}_member"
    await postgres.execute(f"CREATE ROLE {member} LOGIN IN ROLE {role}")
    await migrate(postgres.url(empty) if by == "superuser" else as_role(postgres.url(empty), member))
    await postgres.execute(f"DROP ROLE {member}")
    owners = """
        SELECT relowner::regrole::text FROM pg_class WHERE relnamespace = 'abide'::regnamespace
        UNION SELECT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'abide'::regnamespace
    """
    assert await postgres.execute(owners, database=empty) == [(role,)]
    with capture_logs() as logs:
        async with worker(as_role(postgres.url(empty), role)) as it:
            (reader,) = await it.follow("a")
            assert isinstance((await it.publish("a", "1"))[0], Published)
            await postgres.execute("SELECT abide.publish('a', '2')", database=empty)
            assert await reader.until(2) == [b"1", b"2"]
    assert [line for line in logs if line["log_level"] != "info"] == []


async def test_whoever_may_append_as_everybody_may_goes_on_by_hints(
    postgres: PostgresServer, empty: str, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Role whose rights are those of PUBLIC serves after an upgrade, without the secret, and is told of it once."""
    every = files.migrations()
    with monkeypatch.context() as patch:
        patch.setattr(files, "migrations", lambda: every[:2])
        await migrate(postgres.url(empty))
    for grant in VERSION_2.format(role="PUBLIC").strip().split("\n"):
        await postgres.execute(grant, database=empty)
    await migrate(postgres.url(empty))
    with capture_logs() as logs:
        async with worker(as_role(postgres.url(empty), role)) as it:
            (reader,) = await it.follow("a")
            assert isinstance((await it.publish("a", "1"))[0], Published)
            await postgres.execute("SELECT abide.publish('a', '2')", database=empty)
            assert await reader.until(2) == [b"1", b"2"]
    assert [line["event"] for line in logs if line["log_level"] != "info"] == ["seal_unreadable"]


async def test_five_at_once_migrate_one_after_the_other(postgres: PostgresServer, empty: str) -> None:
    """Migration by five at once is done by one of them, and the others find it done."""
    taken = await asyncio.gather(*(migrate(postgres.url(empty)) for _ in range(5)))
    assert sorted(taken) == [[], [], [], [], STEPS]


async def test_whoever_holds_an_advisory_lock_keeps_nobody_from_migrating(postgres: PostgresServer, empty: str) -> None:
    """Migration waits for no lock that a role without rights can take."""
    neighbour = await asyncpg.connect(postgres.url(empty))
    await neighbour.execute("SELECT pg_advisory_lock(4712340000)")
    async with asyncio.timeout(5):
        assert await migrate(postgres.url(empty)) == STEPS
    await neighbour.close()


async def test_the_seal_is_for_nobody_else(postgres: PostgresServer, empty: str, role: str) -> None:
    """Role that reads every new table by ALTER DEFAULT PRIVILEGES does not read the secret."""
    await postgres.execute(f"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {role}", database=empty)
    await postgres.execute(f"ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO {role}", database=empty)
    await migrate(postgres.url(empty))
    await postgres.execute(f"GRANT USAGE ON SCHEMA abide TO {role}", database=empty)
    connection = await asyncpg.connect(as_role(postgres.url(empty), role))
    for statement in (
        "SELECT * FROM abide.turn",
        "SELECT abide.tell('a', 1, 1, 1, '1', true, 'e')",
        "SELECT abide.reseal()",
        "SELECT abide.take(1)",
        "SELECT abide.put_access('{}')",
        "SELECT abide.revoke('42')",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()


async def test_what_others_put_into_public_is_not_run_by_a_migration(postgres: PostgresServer, empty: str) -> None:
    """Migration runs no operator that a role has put where it fits better than PostgreSQL's own."""
    function = (
        "CREATE FUNCTION public.trap(oid, regproc) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'trap'; END $$"
    )
    await postgres.execute(function, database=empty)
    operator = "CREATE OPERATOR public.= (FUNCTION = public.trap, LEFTARG = oid, RIGHTARG = regproc)"
    await postgres.execute(operator, database=empty)
    assert await migrate(postgres.url(empty)) == STEPS


async def test_workers_migrate_by_themselves(postgres: PostgresServer, empty: str) -> None:
    """Workers that start at once on an empty database agree on one epoch."""
    async with worker(postgres.url(empty)) as one, worker(postgres.url(empty)) as other:
        assert await one.backend.follow("a") == await other.backend.follow("a")


async def test_a_failed_step_leaves_nothing(
    postgres: PostgresServer, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Migration whose step fails leaves the database as it was."""
    broken = files.Migration(len(STEPS) + 1, "broken.sql", "SELECT nothing FROM nowhere")
    every = files.migrations()
    with monkeypatch.context() as patch:
        patch.setattr(files, "migrations", lambda: [*every, broken])
        with pytest.raises(UnavailableError, match="could not be migrated"):
            await migrate(postgres.url(empty))
    assert await postgres.execute("SELECT to_regnamespace('abide')", database=empty) == [(None,)]


async def test_a_newer_schema_is_refused(postgres: PostgresServer, database: str) -> None:
    """Worker refuses a schema that is newer than itself, in health and to publishers, and says what to do."""
    await postgres.execute("UPDATE abide.installation SET version = 99", database=database)
    text = f"the schema 'abide' has version 99, and this server knows {len(STEPS)}: deploy a newer server"
    with pytest.raises(UnavailableError, match=text):
        await migrate(postgres.url(database))
    async with worker(postgres.url(database), ready=False) as it:
        assert await says(it.backend, "version") == text
        await postgres.execute("UPDATE abide.installation SET version = $1", len(STEPS), database=database)
        await healthy(it.backend)
        assert isinstance((await it.publish("a", "1"))[0], Published)


async def test_a_role_without_rights_is_told_the_command(postgres: PostgresServer, empty: str, role: str) -> None:
    """Worker whose role may not create the schema names the command that does, and serves once it was run."""
    async with worker(as_role(postgres.url(empty), role), ready=False) as it:
        await says(it.backend, "run 'abide migrate' with a role that may create it")
        with pytest.raises(UnavailableError, match="could not be migrated"):
            await migrate(as_role(postgres.url(empty), role))
        await migrate(postgres.url(empty))
        connection = await asyncpg.connect(postgres.url(empty))
        await connection.execute(WORKER.format(role=role))
        await connection.close()
        await healthy(it.backend)


async def test_a_schema_made_by_an_administrator_is_filled(postgres: PostgresServer, empty: str, role: str) -> None:
    """Role that owns an empty schema, and may create none, can migrate it."""
    await postgres.execute(f"CREATE SCHEMA abide AUTHORIZATION {role}", database=empty)
    assert await migrate(as_role(postgres.url(empty), role)) == STEPS
    async with worker(as_role(postgres.url(empty), role)) as it:
        assert isinstance((await it.publish("a", "1"))[0], Published)


async def test_a_sql_publisher_needs_two_grants(url: str, sql: asyncpg.Connection, role: str) -> None:
    """Role with USAGE and EXECUTE on abide.publish publishes; it reads no table and calls nothing else."""
    await sql.execute(SQL_PUBLISHER.format(role=role))
    connection = await asyncpg.connect(as_role(url, role))
    await connection.execute("SELECT abide.publish('a', '1')")
    for table in ("installation", "head", "log", "key", "outbox", "seal", "turn"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(f"SELECT * FROM abide.{table}")  # noqa: S608 — names from above
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("SELECT last_value FROM abide.awake")
    for call in (
        "drain(1, true)",
        "stay_awake(0)",
        "refuse('', '', '')",
        "refuse_type(0)",
        "too_deep('')",
        "as_json('')",
        "look_at(1, '', '', '')",
        "take(1)",
        "trim('{}', '{}', '{}', 1)",
        f"append({', '.join(['NULL'] * 11)})",
        "append_one('a', 1, '1', true)",
        f"store({', '.join(['NULL'] * 11)})",
        "store_one('a', 1, '1', true)",
        "enter()",
        "certify()",
        "open_epoch()",
        "check_new('')",
        "tell('a', 1, 1, 1, '1', true, 'e')",
        "lead(1000)",
        "reseal()",
        "revoke('42')",
        "revoke_token('9f')",
        "disconnect('42')",
        "put_access('{}')",
        "check_claim('', '', '')",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(f"SELECT * FROM abide.{call}")  # noqa: S608 — the same
    await connection.close()
    assert await sql.fetchval("SELECT count(*) FROM abide.outbox") == 1


async def test_nobody_publishes_from_sql_without_a_grant(url: str, sql: asyncpg.Connection, role: str) -> None:
    """Role without grants can call nothing in the schema, even where it may look into it."""
    await sql.execute(f"GRANT USAGE ON SCHEMA abide TO {role}")
    connection = await asyncpg.connect(as_role(url, role))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("SELECT abide.publish('a', '1')")
    await connection.close()


async def test_a_worker_needs_no_right_to_change_the_schema(url: str, sql: asyncpg.Connection, role: str) -> None:
    """Role with the worker's grants appends, reads, listens, drains and trims, and can write to no table itself."""
    await sql.execute(WORKER.format(role=role))
    with capture_logs() as logs:
        async with worker(as_role(url, role)) as it:
            (reader,) = await it.follow("a")
            await it.bus.publish([Record("a", b"1", "k"), Record("a", b"2")])
            await sql.execute("SELECT abide.publish('a', '3')")
            assert await reader.until(3) == [b"1", b"2", b"3"]
            assert len((await it.bus.read("a", 0, 10, ALL)).messages) == 3
            work = WorkConnection(parse(as_role(url, role)), "abide work")
            await trim(work, lambda _: ALL)
            await work.close()
    assert [line for line in logs if line["log_level"] in ("warning", "error")] == []
    connection = await asyncpg.connect(as_role(url, role))
    for statement in (
        "DELETE FROM abide.log",
        "UPDATE abide.head SET head = 0",
        "UPDATE abide.turn SET until = 0",
        "SELECT * FROM abide.key",
        "SELECT abide.tell('a', 1, 1, 1, '1', true, 'e')",
        "SELECT abide.reseal()",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()


async def test_the_repr_names_the_place_and_no_secret(postgres: PostgresServer) -> None:
    """Backend's repr tells where it is connected to and how that goes."""
    url = postgres.url("app").replace("postgres@", "postgres:s3cret@")
    backend = PostgresBackend(url, retention=lambda _: ALL)
    state = "0 followed, 0 bytes held: not connected yet"
    assert repr(backend) == f"<PostgresBackend 127.0.0.1:{postgres.port}/app, {state}>"


async def test_a_database_that_is_not_there_is_named(postgres: PostgresServer) -> None:
    """Worker whose database does not exist says so in its health, and in one line of its log."""
    with capture_logs() as logs:
        async with worker(postgres.url("nowhere"), ready=False) as it:
            await until(lambda: logs, "a line in the log")
            health = await it.backend.health()
            assert not health.ok
            assert f'127.0.0.1:{postgres.port}/nowhere: database "nowhere"' in health.detail
    assert [line["event"] for line in logs] == ["not_listening"]

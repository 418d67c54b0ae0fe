"""Readiness says what commits, drains, reads and deliveries come to, on databases that fail in many ways."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Self

import anyio.to_thread
import asyncpg
import pytest

from app.bus.postgres import migrate
from app.core.errors import OutcomeUnknownError, UnavailableError
from app.core.message import Published
from app.core.ports import Outcome
from tests.bus.postgres.test_migrations import WORKER, as_role
from tests.support.postgres import PostgresServer, wheel_binaries
from tests.support.proxy import FaultProxy
from tests.support.readers import Worker, healthy, says, worker

pytestmark = pytest.mark.usefixtures("unretrieved")


SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'abide%' AND datname = current_database()"

SLOWLY = """
CREATE FUNCTION public.slowly() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN PERFORM pg_sleep(0.05); RETURN NULL; END $$;
CREATE TRIGGER slowly AFTER INSERT ON abide.log FOR EACH STATEMENT EXECUTE FUNCTION public.slowly();
"""
"""Makes each commit take ten times as long as the server's role may."""


@dataclass(frozen=True)
class Fault:
    """Something that an administrator or another session does, and undoes."""

    begin: str
    end: str
    said: str
    """A part of what readiness says then."""
    push: bool = True
    """Whether a push is refused, too."""


def lock(table: str, *, push: bool = True) -> Fault:
    """Hold a lock that every other session waits for."""
    return Fault(f"BEGIN; LOCK TABLE abide.{table} IN ACCESS EXCLUSIVE MODE", "ROLLBACK", "55P03", push)


FAULTS = {
    "append": Fault(
        "REVOKE EXECUTE ON FUNCTION abide.store, abide.store_one FROM {server}",
        "GRANT EXECUTE ON FUNCTION abide.store, abide.store_one TO {server}",
        "GRANT EXECUTE ON FUNCTION abide.store",
    ),
    "drain": Fault(
        "REVOKE EXECUTE ON FUNCTION abide.drain FROM {server}",
        "GRANT EXECUTE ON FUNCTION abide.drain TO {server}",
        "GRANT EXECUTE ON FUNCTION abide.drain",
        push=False,
    ),
    "lead": Fault(
        "REVOKE EXECUTE ON FUNCTION abide.lead, abide.stay_awake FROM {server}",
        "GRANT EXECUTE ON FUNCTION abide.lead, abide.stay_awake TO {server}",
        "GRANT EXECUTE ON FUNCTION abide.lead, abide.stay_awake TO",
        push=False,
    ),
    "insert": Fault(
        "REVOKE INSERT ON abide.log FROM {owner}",
        "GRANT INSERT ON abide.log TO {owner}",
        "GRANT ALL ON abide.log TO the owner",
    ),
    "select": Fault(
        "REVOKE SELECT ON abide.log FROM {server}",
        "GRANT SELECT ON abide.log TO {server}",
        "GRANT SELECT ON abide.log",
        push=False,
    ),
    "row security of the heads": Fault(
        "ALTER TABLE abide.head ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE abide.head DISABLE ROW LEVEL SECURITY",
        'policy for table "head"',
        push=False,
    ),
    "row security of the log": Fault(
        "ALTER TABLE abide.log ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE abide.log DISABLE ROW LEVEL SECURITY",
        'policy for table "log"',
        push=False,
    ),
    "a lock on the log": lock("log"),
    "a lock on the heads": lock("head"),
    "a lock on the outbox": lock("outbox", push=False),
    "a column that is gone": Fault(
        "ALTER TABLE abide.log RENAME COLUMN body TO elsewhere",
        "ALTER TABLE abide.log RENAME COLUMN elsewhere TO body",
        'column "body"',
    ),
}
"""What may happen to one database while its server runs."""


class Installation:
    """A database with an owner and a server's role that may do no more than the docs say."""

    def __init__(self, postgres: PostgresServer, database: str, owner: str, server: str) -> None:
        self.postgres, self.database = postgres, database
        self.owner, self.server = owner, server
        self.url = as_role(postgres.url(database), server)

    @classmethod
    @contextlib.asynccontextmanager
    async def new(cls, postgres: PostgresServer) -> AsyncIterator["Installation"]:
        owner, server = (f"{name}_{secrets.token_hex(6)}" for name in ("owner", "server"))
        database = await postgres.create_database()
        await postgres.execute(f"CREATE ROLE {owner} LOGIN")
        await postgres.execute(f"CREATE ROLE {server} LOGIN")
        await postgres.execute(f"ALTER DATABASE {database} OWNER TO {owner}")
        await migrate(as_role(postgres.url(database), owner))
        installation = cls(postgres, database, owner, server)
        try:
            await postgres.execute(f"ALTER ROLE {server} SET statement_timeout = '5ms'")  # ours is another one
            await postgres.execute(f"ALTER ROLE {server} SET idle_session_timeout = '500ms'")
            connection = await asyncpg.connect(postgres.url(database))
            await connection.execute(WORKER.format(role=server))
            await connection.close()
            yield installation
        finally:
            await postgres.drop_database(database)
            await postgres.execute(f"DROP ROLE {owner}")
            await postgres.execute(f"DROP ROLE {server}")


async def ready_again(it: Worker, *, seconds: float = 6) -> None:
    """Return when it is well, and stays so for a moment."""
    await healthy(it.backend, seconds=seconds)
    for _ in range(20):
        assert (await it.backend.health()).ok
        await asyncio.sleep(0.05)


async def stays_bad(it: Worker, seconds: float) -> None:
    """Hold that readiness does not flicker."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        health = await it.backend.health()
        assert not health.ok
        assert "\n" not in health.detail
        await asyncio.sleep(0.01)


async def replay(postgres: PostgresServer, fault: Fault) -> None:
    """Let a fault happen to an installation of its own, and end."""
    async with Installation.new(postgres) as here, worker(here.url) as it:
        (reader,) = await it.follow("a")
        operator = await asyncpg.connect(postgres.url(here.database))
        await it.publish("a", "1")
        await operator.execute(fault.begin.format(owner=here.owner, server=here.server))
        await says(it.backend, fault.said, seconds=10)
        began = time.monotonic()
        (outcome,) = await it.publish("a", "2")
        assert time.monotonic() - began < 6
        assert isinstance(outcome, Published) is not fault.push, outcome
        await stays_bad(it, 2)
        await operator.execute(fault.end.format(owner=here.owner, server=here.server))
        await ready_again(it)
        assert isinstance((await it.publish("a", "3"))[0], Published)
        await operator.execute("SELECT abide.publish('a', '4')")
        expected = [b"1", b"3", b"4"] if fault.push else [b"1", b"2", b"3", b"4"]
        assert await reader.until(len(expected)) == expected
        assert await operator.fetchval(SESSIONS) <= 5
        operator.terminate()


@contextlib.asynccontextmanager
async def server(binaries: str = "") -> AsyncIterator[PostgresServer]:
    """Start a server of the test's own, with a schema."""
    own = PostgresServer(wheel_binaries() if binaries else None)
    await anyio.to_thread.run_sync(own.start)
    try:
        await migrate(own.url())
        yield own
    finally:
        await anyio.to_thread.run_sync(own.close)


async def alter(own: PostgresServer, setting: str) -> None:
    """Change a setting of the server, for sessions that are there, too."""
    await own.execute(f"ALTER SYSTEM SET {setting}")
    await own.execute("SELECT pg_reload_conf()")


async def a_server_that_takes_no_writes(_: PostgresServer) -> None:
    """Worker whose server is read-only for a time says so before anybody pushes, refuses at once, and is well again."""
    async with server() as mortal, worker(mortal.url()) as it:
        (reader,) = await it.follow("a")
        await it.publish("a", "1")
        await alter(mortal, "default_transaction_read_only = on")
        assert "25006" in await says(it.backend, "read-only transaction", seconds=10)
        (refused,) = await it.publish("a", "2")
        assert type(refused) is UnavailableError
        await stays_bad(it, 2)
        connection = await asyncpg.connect(mortal.url())
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await connection.execute("SELECT pg_reload_conf()")
        await ready_again(it)
        assert isinstance((await it.publish("a", "3"))[0], Published)
        assert await reader.until(2) == [b"1", b"3"]
        connection.terminate()


async def a_standby_that_is_missing(_: PostgresServer) -> None:
    """Worker whose commits wait for a standby that never comes says so, answers in time, and leaves nothing behind."""
    async with server() as mortal, worker(mortal.url()) as it:
        await it.publish("a", "1")
        await alter(mortal, "synchronous_standby_names = 'nobody'")
        await says(it.backend, "synchronous_standby_names", seconds=10)
        began = time.monotonic()
        answers = await asyncio.gather(*(it.publish("a", str(number)) for number in range(5)))
        assert time.monotonic() - began < 6
        assert not any(isinstance(outcome, Published) for (outcome,) in answers)
        await stays_bad(it, 2)
        connection = await asyncpg.connect(mortal.url())
        assert await connection.fetchval(SESSIONS) <= 5
        connection.terminate()
        await alter(mortal, "synchronous_standby_names = ''")
        await ready_again(it)


async def a_queue_of_notifications_that_somebody_fills(_: PostgresServer) -> None:
    """Worker tells of a queue that a session keeps full, and empties it when that session has left."""
    async with server("wheel") as own:
        await own.execute("ALTER SYSTEM SET max_notify_queue_pages = 64")
        await anyio.to_thread.run_sync(own.restart)
        async with worker(own.url()) as it:
            (reader,) = await it.follow("a")
            await it.publish("a", "1")
            foreign, noisy = await asyncpg.connect(own.url()), await asyncpg.connect(own.url())
            await foreign.execute("LISTEN whatever")
            await foreign.execute("BEGIN; SELECT 1")
            fill = "SELECT pg_notify('whatever', repeat('x', 7000) || g) FROM generate_series(1, 9) g"
            with contextlib.suppress(asyncpg.ProgramLimitExceededError):
                while True:
                    await noisy.execute(fill)
            await says(it.backend, "NOTIFY queue", seconds=10)
            assert isinstance((await it.publish("a", "2"))[0], Published)
            assert await reader.until(2) == [b"1", b"2"]
            await stays_bad(it, 2)
            foreign.terminate()
            await ready_again(it)
            await noisy.execute("SELECT abide.publish('a', '3')")
            assert await reader.until(3) == [b"1", b"2", b"3"]
            noisy.terminate()


class Name:
    """The name of a database, which leads to one server or another; connections that are open stay where they are."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self.port = 0
        self.target = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        with contextlib.suppress(OSError):
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass_on(reader, back))
                group.create_task(_pass_on(there, writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()


async def a_name_that_moves_to_another_server(_: PostgresServer) -> None:
    """Worker whose server was demoted, and stays, goes to the one that the name leads to, and reads nothing old."""
    async with server() as mortal, server() as promoted, Name() as name:
        epoch = (await mortal.execute("SELECT epoch FROM abide.installation"))[0][0]
        await promoted.execute("UPDATE abide.installation SET epoch = $1", epoch)
        name.target = mortal.port
        async with worker(f"postgresql://postgres@127.0.0.1:{name.port}/postgres") as it:
            await it.publish("a", "1")
            assert (await it.backend.head("a")) == 1
            await alter(mortal, "default_transaction_read_only = on")
            await says(it.backend, "read-only transaction", seconds=10)  # sessions take it over when idle
            assert not isinstance((await it.publish("a", "2"))[0], Published)
            name.target = promoted.port
            await ready_again(it, seconds=10)
            outcomes = await it.publish("a", "3", "4")
            assert all(isinstance(outcome, Published) for outcome in outcomes)
            assert (await promoted.execute("SELECT head FROM abide.head")) == [(2,)]
            assert (await it.backend.head("a")) == 2


async def timed(it: Worker, after: float) -> tuple[Outcome, float]:
    """Publish in so many seconds; return the outcome, and the seconds until it came."""
    await asyncio.sleep(after)
    began = time.monotonic()
    (outcome,) = await it.publish("a", "1")
    return outcome, time.monotonic() - began


async def a_dead_network(postgres: PostgresServer) -> None:
    """Answer publishers in time over a network that says nothing any more: those who came first, and after."""
    async with (
        Installation.new(postgres) as here,
        FaultProxy("127.0.0.1", postgres.port) as proxy,
        worker(here.url.replace(f":{postgres.port}", f":{proxy.port}")) as it,
    ):
        await it.publish("a", "0")
        proxy.half_open()
        answers = await asyncio.gather(*(timed(it, after) for after in (0.0, 0.1, 2.0, 3.5)))
        assert max(seconds for _, seconds in answers) < 6
        assert all(isinstance(outcome, UnavailableError) for outcome, _ in answers)
        assert type(answers[0][0]) is OutcomeUnknownError  # it was sent
        assert type(answers[1][0]) is UnavailableError  # it was not
        assert "no answer in time" in await healthy(it.backend, ok=False)
        proxy.heal()
        await healthy(it.backend, seconds=6)
        assert isinstance((await timed(it, 0))[0], Published)


async def locks(postgres: PostgresServer) -> None:
    """Answer publishers in time while a table is locked: nothing was stored. Leave no session behind."""
    async with Installation.new(postgres) as here, worker(here.url) as it, worker(here.url) as other:
        sql = await asyncpg.connect(postgres.url(here.database))
        (reader,) = await it.follow("a")
        await sql.execute("BEGIN; LOCK TABLE abide.outbox, abide.log IN ACCESS EXCLUSIVE MODE")
        answers = await asyncio.gather(*(timed(it, after) for after in (0.0, 0.1, 2.0, 3.5)))
        assert max(seconds for _, seconds in answers) < 6
        assert {type(outcome) for outcome, _ in answers} == {UnavailableError}
        assert not (await other.backend.health()).ok
        assert await sql.fetchval(SESSIONS) <= 8
        await sql.execute("ROLLBACK")
        await healthy(it.backend, seconds=6)
        assert isinstance((await timed(it, 0))[0], Published)
        assert await reader.until(1) == [b"1"]
        sql.terminate()


async def a_role_with_little_time(postgres: PostgresServer) -> None:
    """Worker whose role has short timeouts sets its own: what takes longer is stored, drained and delivered."""
    count = 2000
    async with Installation.new(postgres) as here, worker(here.url) as it:
        (reader,) = await it.follow("a")
        sql = await asyncpg.connect(postgres.url(here.database))
        await sql.execute(SLOWLY)
        await asyncio.sleep(1)  # twice idle_session_timeout
        assert all(isinstance(outcome, Published) for outcome in await it.publish("a", *map(str, range(count))))
        await sql.execute("SELECT abide.publish('a', to_jsonb(i)) FROM generate_series(1, $1::int) i", count)
        assert len(await reader.until(2 * count)) == 2 * count
        await ready_again(it)
        sql.terminate()


STORIES = (
    a_server_that_takes_no_writes,
    a_standby_that_is_missing,
    a_queue_of_notifications_that_somebody_fills,
    a_name_that_moves_to_another_server,
    a_dead_network,
    locks,
    a_role_with_little_time,
)


async def test_readiness_says_what_outcomes_say(postgres: PostgresServer) -> None:
    """Worker says within ten seconds what is wrong, whoever pushes, without flickering, and within six that it is well.

    All at the same time: they wait, for the most part.
    """
    async with asyncio.TaskGroup() as group:
        for name, fault in FAULTS.items():
            group.create_task(replay(postgres, fault), name=name)
        for story in STORIES:
            group.create_task(story(postgres), name=story.__name__)

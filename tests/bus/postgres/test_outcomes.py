"""Readiness says what commits, drains, reads and deliveries come to, on databases that refuse them in many ways."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest

from app.bus.postgres import migrate
from app.core.message import Published
from tests.bus.postgres.test_migrations import WORKER, as_role
from tests.support.postgres import PostgresServer
from tests.support.readers import Worker, healthy, says, worker

pytestmark = pytest.mark.usefixtures("unretrieved")


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
        await stays_bad(it, 3)
        await operator.execute(fault.end.format(owner=here.owner, server=here.server))
        await ready_again(it)
        assert isinstance((await it.publish("a", "3"))[0], Published)
        await operator.execute("SELECT abide.publish('a', '4')")
        expected = [b"1", b"3", b"4"] if fault.push else [b"1", b"2", b"3", b"4"]
        assert await reader.until(len(expected)) == expected
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = $1"
        assert await operator.fetchval(sessions, here.server) <= 5
        operator.terminate()


async def test_what_a_database_refuses_shows_in_readiness(postgres: PostgresServer) -> None:
    """Worker says within ten seconds what is wrong, before anybody pushes, without flickering, and when it is well."""
    async with asyncio.TaskGroup() as group:
        for name, fault in FAULTS.items():
            group.create_task(replay(postgres, fault), name=name)

"""A PostgreSQL that moves: a primary with its data on a small disk, and names that lead to whichever is the primary."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import asyncpg
from anyio.from_thread import BlockingPortal

from tests.support.postgres import PostgresServer
from tests.support.proxy import FaultProxy
from tests.support.small_disk import SmallDisk
from tests.support.standby import Standby

TABLESPACE = "small"

READ_ONLY = "ALTER SYSTEM SET default_transaction_read_only = on"
WRITABLE = "ALTER SYSTEM RESET default_transaction_read_only"


class Cluster:
    """A primary, and the names under which it is known. What takes time blocks, as the server's own methods do.

    ``servers`` is the name that a test's server uses, which may be broken; ``applications`` is everybody else's.
    """

    def __init__(self, stack: ExitStack, portal: BlockingPortal) -> None:
        self._stack = stack
        self._portal = portal
        self.primary = stack.enter_context(PostgresServer(settings={"max_prepared_transactions": "32"}))
        self.disk = stack.enter_context(SmallDisk())
        asyncio.run(self.primary.execute(f"CREATE TABLESPACE {TABLESPACE} LOCATION '{self.disk.data}'"))
        self.database = asyncio.run(self.primary.create_database(tablespace=TABLESPACE))
        self.servers = self._name()
        self.applications = self._name()

    @property
    def url(self) -> str:
        """The database's address on the primary itself."""
        return self.primary.url(self.database)

    def through(self, name: FaultProxy) -> str:
        """Return the database's address by a name of it."""
        return f"postgresql://postgres@127.0.0.1:{name.port}/{self.database}"

    async def sql(self, *statements: str) -> None:
        """Run statements as an operator, also where everybody else may only read, and again after a deadlock."""
        connection = await asyncpg.connect(self.url, server_settings={"default_transaction_read_only": "off"})
        try:
            for statement in statements:
                while not await _win(connection, statement):
                    pass
        finally:
            connection.terminate()

    @contextmanager
    def lagging(self) -> Iterator[Standby]:
        """Set up a standby that streams; promote it by :meth:`fail_over`, or it is gone again in the end."""
        with ExitStack() as stack:
            disk = stack.enter_context(SmallDisk())
            standby = Standby(self.primary, {self.disk.data: disk.data}, settings={"fsync": "off"})  # or it starts late
            stack.callback(standby.close)
            standby.start()
            yield standby
            if standby is self.primary:
                self.disk = disk
                self._stack.push(stack.pop_all())

    def fail_over(self, standby: Standby) -> None:
        """End the primary, promote a standby, and let every name lead there; sessions of the old one are gone."""
        old = self.primary
        old.crash()
        standby.promote()
        self.take(standby)
        old.close()
        asyncio.run(self._end_prepared())

    async def _end_prepared(self) -> None:
        """Roll back what is prepared here: where it was decided, that may be among what a standby has not got."""
        names = await self.primary.execute("SELECT gid FROM pg_prepared_xacts", database=self.database)
        for (name,) in names:
            with suppress(asyncpg.UndefinedObjectError):  # whoever prepared it has come first
                await self.sql(f"ROLLBACK PREPARED '{name}'")

    def take(self, primary: PostgresServer) -> None:
        """Let every name lead to another primary; who is connected to the old one stays there."""
        self.primary = primary
        for name in (self.servers, self.applications):
            self._portal.call(name.lead_to, primary.port)

    def _name(self) -> FaultProxy:
        proxy = FaultProxy("127.0.0.1", self.primary.port)
        return self._stack.enter_context(self._portal.wrap_async_context_manager(proxy))


async def _win(connection: asyncpg.Connection, statement: str) -> bool:
    """Run a statement; False if somebody who works with the tables came first."""
    try:
        await connection.execute(statement)
    except asyncpg.DeadlockDetectedError:
        return False
    return True

"""Connections: how they are made, and one that is made again when it was lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg
import structlog

from app.bus.postgres.dsn import Dsn
from app.core.errors import UnavailableError

CONNECT_SECONDS = 5.0
_ROW_DROPPED = "AB101"
"""SQLSTATE of the warning of ``abide.look_at``."""

COMMAND_SECONDS = 10.0
"""After so long without an answer a connection counts as dead: its peer may be gone without a word."""

_log = structlog.get_logger(__name__)

# asyncpg leaves its own classes when a server goes down at the wrong moment, so anything that is
# not the server's own "no" to a statement means that the connection is of no more use.
LOST = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresConnectionError,
        asyncpg.OperatorInterventionError, TimeoutError, EOFError)  # fmt: skip


async def connect(dsn: Dsn, name: str) -> asyncpg.Connection:
    """Connect; raise :class:`UnavailableError` that says where to and why not."""
    try:
        connection = await asyncpg.connect(
            dsn.url,
            timeout=CONNECT_SECONDS,
            command_timeout=COMMAND_SECONDS,
            statement_cache_size=0 if dsn.pooled else 100,
            server_settings={"application_name": name},
        )
    except (*LOST, asyncpg.PostgresError, ValueError) as error:
        msg = f"no connection to {dsn.place}: {describe(error)}"
        raise UnavailableError(msg) from error
    connection.add_log_listener(_pass_on)
    return connection


def _pass_on(_: object, message: asyncpg.PostgresLogMessage) -> None:
    """Write what our functions in the database warn of into the log."""
    if message.sqlstate == _ROW_DROPPED:
        _log.warning("outbox_row_dropped", detail=message.message)


def describe(error: BaseException) -> str:
    """Say what went wrong in one line."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{type(error).__name__}: {error}".split("\n")[0].removesuffix(": ")


class Link:
    """One connection for short statements, taken in turns and connected when needed."""

    def __init__(self, dsn: Dsn, name: str) -> None:
        self._dsn = dsn
        self._name = name
        self._turn = asyncio.Lock()
        self._connection: asyncpg.Connection | None = None
        self.error: str | None = None
        """Why it is not connected; None while it is, or was never tried."""

    def __repr__(self) -> str:
        state = self.error or ("connected" if self._connection else "not connected")
        return f"<Link {self._name} to {self._dsn.place}: {state}>"

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        """Take a turn. What is lost meanwhile is thrown away, and the error goes on.

        Raises :class:`UnavailableError` when it cannot connect: nothing was sent then.
        """
        async with self._turn:
            connection = await self._connected()
            try:
                if self._dsn.pooled:  # what belongs together must reach the same session behind the pooler
                    async with connection.transaction():
                        yield connection
                else:
                    yield connection
            except BaseException as error:
                # A cancelled statement leaves the connection in the middle of something, too.
                if connection.is_closed() or not isinstance(error, asyncpg.PostgresError) or isinstance(error, LOST):
                    self.drop(describe(error))
                raise

    def drop(self, reason: str) -> None:
        """Throw the connection away."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection, self.error = None, reason

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is not None and self._connection.is_closed():
            self.drop("the server closed it")
        if self._connection is None:
            try:
                self._connection = await connect(self._dsn, self._name)
            except UnavailableError as error:
                self.error = str(error)
                raise
            self.error = None
        return self._connection

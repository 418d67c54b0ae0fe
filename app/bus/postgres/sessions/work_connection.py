"""Connections: how they are made, and one that is made again when it was lost, or only says no.

Each session has timeouts of its own on the server, so that nothing runs on there for long that was abandoned here: the
network may be gone, and a cancel with it. Where the network is there, what is abandoned is cancelled and waited for
before the connection that takes its place is made: so there are never more of them than there are links.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import asyncpg
import structlog

from app.bus.postgres import sql
from app.bus.postgres.sessions.dsn import Dsn
from app.bus.postgres.sessions.faults import explain, sqlstate
from app.core.errors import UnavailableError

_log = structlog.get_logger(__name__)

CONNECT_SECONDS = 4.0
COMMAND_SECONDS = 10.0
"""After so long without an answer a connection counts as dead: its peer may be gone without a word."""

_CLOSE_SECONDS = 1.5
"""For so long what was abandoned may take to end."""

_PAUSE_SECONDS = 0.05
"""From one connection to the next, at least: one that only says no is dropped each time."""

LOST = (
    OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresConnectionError, TimeoutError,
    asyncpg.AdminShutdownError, asyncpg.CrashShutdownError, asyncpg.CannotConnectNowError, asyncpg.DatabaseDroppedError,
    asyncpg.IdleSessionTimeoutError, EOFError,
)  # fmt: skip
"""The connection is gone, and what became of the statement is unknown. asyncpg leaves its own classes when a server
goes down at the wrong moment, so anything that is not the server's own "no" to a statement means that."""

_STATEMENT_ALONE = ("22", "23", "40", "42501", "44", "53", "54", "55P03", "57014", "P0")
"""SQLSTATEs, or their beginnings, of a "no" to one statement. Any other is one to all that comes: the server takes no
writes any more, the schema was restored, a plan has grown old. Another connection may lead elsewhere."""

_ROW_DROPPED = "AB101"
"""SQLSTATE of the warning of ``abide.look_at``."""

_AT_START = {"statement_timeout": "10s"}
"""What cannot wait for session.sql, which a role's own setting could cancel."""

_OF_POOLERS = ("AB001", "08P01", "0A000", "42704", "42501")
"""SQLSTATEs of a pooler: session.sql raises the first; the next refuse what is asked for at the start. The last is a
role's that may write no PL/pgSQL: its sessions are treated as those behind one, with settings for each transaction."""


def is_over(error: BaseException) -> bool:
    """Whether a connection that has raised this is of no more use."""
    return isinstance(error, LOST) or not sqlstate(error).startswith(_STATEMENT_ALONE)


class Session(asyncpg.Connection):
    """A session of ours at the server."""

    pooled = False
    """Whether a pooler is between: what belongs together must be a transaction, and is the only thing that does."""


class PooledSession(Session):
    """A connection to a pooler, which gives each transaction a session of its own choice."""

    pooled = True


async def connect(dsn: Dsn, name: str) -> Session:
    """Connect; raise :class:`UnavailableError` that says where to and why not."""
    try:
        return await _connect(dsn, name, PooledSession if dsn.pooled else Session)
    except (*LOST, asyncpg.PostgresError, ValueError) as error:
        msg = f"no connection to {dsn.place}: {explain(error, connecting=True)}"
        raise UnavailableError(msg) from error


async def _connect(dsn: Dsn, name: str, kind: type[Session]) -> Session:
    session: Session | None = None
    try:
        session = await asyncpg.connect(
            dsn.url,
            ssl=True if dsn.public else None,
            timeout=CONNECT_SECONDS,
            command_timeout=COMMAND_SECONDS,
            statement_cache_size=0 if kind.pooled else 100,
            server_settings={"application_name": name} | ({} if kind.pooled else _AT_START),
            connection_class=kind,
        )
        if not kind.pooled:
            await session.execute(_settings(session), timeout=CONNECT_SECONDS)
    except BaseException as error:
        if session is not None:
            session.terminate()
        if kind.pooled or sqlstate(error) not in _OF_POOLERS:
            raise
    else:
        session.add_log_listener(_pass_on)
        return session
    return await _connect(dsn, name, PooledSession)


def _pass_on(_: object, message: asyncpg.PostgresLogMessage) -> None:
    """Write what our functions in the database warn of into the log."""
    if message.sqlstate == _ROW_DROPPED:
        _log.warning("outbox_row_dropped", detail=message.message)


def _settings(session: Session) -> str:
    return sql.query("session").replace("{pid}", str(session.get_server_pid()))


async def close(session: Session) -> None:
    """Cancel what the session is at, wait until it has ended, and close it. Never raises; takes a moment at most."""
    with contextlib.suppress(Exception):
        await session.close(timeout=_CLOSE_SECONDS)


class Link:
    """One connection for short statements, taken in turns and connected when needed.

    With ``idle``, it is closed when nobody has needed it for so many seconds.
    """

    def __init__(self, dsn: Dsn, name: str, *, idle: float | None = None) -> None:
        self._dsn = dsn
        self._name = name
        self._idle = idle
        self._turn = asyncio.Lock()
        self._session: Session | None = None
        self._closing: asyncio.Task[None] | None = None
        """The end of the session before this one."""
        self._resting: asyncio.TimerHandle | None = None
        self._tried = float("-inf")
        """When it was connected last, or could not be."""

    def __repr__(self) -> str:
        return f"<Link {self._name} to {self._dsn.place}: {'connected' if self._session else 'not connected'}>"

    @contextlib.asynccontextmanager
    async def connection(self, *, keep: bool = True) -> AsyncIterator[Session]:
        """Take a turn, and ``keep`` what it does, or not. A session that is over is dropped, and the error goes on.

        Raises :class:`UnavailableError` when it cannot connect: nothing was sent then.
        """
        async with self._turn:
            session = await self._connected()
            try:
                if session.pooled or not keep:
                    async with _transaction(session, keep=keep):
                        yield session
                else:
                    yield session
            except BaseException as error:
                # A cancelled statement leaves the connection in the middle of something, too.
                if session.is_closed() or is_over(error):
                    self.drop()
                raise
            finally:
                self._rest()

    def drop(self) -> None:
        """Have another session next time, which may lead elsewhere."""
        if self._session is not None:
            self._closing = asyncio.create_task(close(self._session), name="close-session")
            self._session = None

    async def close(self) -> None:
        """Let go of everything."""
        self.drop()
        if self._resting is not None:
            self._resting.cancel()
        if self._closing is not None:
            await self._closing

    async def _connected(self) -> Session:
        if self._resting is not None:
            self._resting.cancel()
        if self._session is not None and self._session.is_closed():
            self.drop()
        if self._session is None:
            if self._closing is not None:
                await asyncio.shield(self._closing)
            await asyncio.sleep(self._tried + _PAUSE_SECONDS - time.monotonic())
            self._tried = time.monotonic()
            self._session = await connect(self._dsn, self._name)
        return self._session

    def _rest(self) -> None:
        if self._idle is not None and self._session is not None:
            self._resting = asyncio.get_running_loop().call_later(self._idle, self.drop)


@contextlib.asynccontextmanager
async def _transaction(session: Session, *, keep: bool) -> AsyncIterator[None]:
    await session.execute(sql.query("transaction"))
    try:
        yield
    except asyncpg.PostgresError as error:
        if not is_over(error):
            await session.execute("ROLLBACK")
        raise
    await session.execute("COMMIT" if keep else "ROLLBACK")


class Links:
    """A few links for who comes first, each closed when nobody needs it."""

    def __init__(self, dsn: Dsn, name: str, count: int, *, idle: float) -> None:
        self._all = [Link(dsn, name, idle=idle) for _ in range(count)]
        self._free = self._all.copy()
        self._room = asyncio.Semaphore(count)
        self._generation = 0

    @contextlib.asynccontextmanager
    async def connection(self, generation: int) -> AsyncIterator[Session]:
        """Take one of them, as in :meth:`Link.connection`. Those of another ``generation`` are made again."""
        if generation != self._generation:
            self._generation = generation
            self.renew()
        async with self._room:
            link = self._free.pop()
            try:
                async with link.connection() as session:
                    yield session
            finally:
                self._free.append(link)

    def renew(self) -> None:
        """Have other sessions next time, which may lead elsewhere."""
        for link in self._free:
            link.drop()

    async def close(self) -> None:
        """Let go of everything."""
        for link in self._all:
            await link.close()

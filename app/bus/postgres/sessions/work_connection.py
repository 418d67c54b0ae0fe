"""Work connections: for short statements, connected when needed, and again when lost or of no more use.

What is abandoned is cancelled, and its end awaited, before the next connection takes its place. So the server never
has more sessions of ours than there are work connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import asyncpg

from app.bus.postgres import sql
from app.bus.postgres.sessions.dsn import Dsn
from app.bus.postgres.sessions.session import Session, close, connect, is_over

_PAUSE_SECONDS = 0.05
"""The least time between two attempts to connect, for a server that refuses each statement costs a connection each."""


class WorkConnection:
    """One connection for short statements, used by one caller at a time.

    With ``idle``, it is closed when nobody has used it for this many seconds.
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
        """When the last attempt to connect began."""

    def __repr__(self) -> str:
        state = "connected" if self._session else "not connected"
        return f"<WorkConnection {self._name} to {self._dsn.place}: {state}>"

    @contextlib.asynccontextmanager
    async def session(self, *, keep: bool = True) -> AsyncIterator[Session]:
        """Wait for a turn and lend the session; ``keep`` what is done with it, or undo it.

        A session that turns out to be of no more use is dropped, and the error goes on. Raises
        :class:`UnavailableError` when it cannot connect: nothing was sent then.
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
        """Use another session from the next turn on: it may lead elsewhere."""
        if self._session is not None:
            self._closing = asyncio.create_task(close(self._session), name="close-session")
            self._session = None

    async def close(self) -> None:
        """Close the session, and wait for the end of the one before."""
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


class WorkConnections:
    """A few work connections, lent in the order of requests. An unused connection is closed."""

    def __init__(self, dsn: Dsn, name: str, count: int, *, idle: float) -> None:
        self._all = [WorkConnection(dsn, name, idle=idle) for _ in range(count)]
        self._free = self._all.copy()
        self._room = asyncio.Semaphore(count)
        self._generation = 0

    @contextlib.asynccontextmanager
    async def session(self, generation: int, turned: Callable[[], None] = lambda: None) -> AsyncIterator[Session]:
        """Lend one, as :meth:`WorkConnection.session` does. Another ``generation`` than before renews them all.

        ``turned`` is called when one is free, before it connects.
        """
        if generation != self._generation:
            self._generation = generation
            self.renew()
        async with self._room:
            turned()
            connection = self._free.pop()
            try:
                async with connection.session() as session:
                    yield session
            finally:
                self._free.append(connection)

    def renew(self) -> None:
        """Use other sessions from now on: they may lead elsewhere."""
        for connection in self._free:
            connection.drop()

    async def close(self) -> None:
        """Close them all."""
        for connection in self._all:
            await connection.close()


@contextlib.asynccontextmanager
async def _transaction(session: Session, *, keep: bool) -> AsyncIterator[None]:
    await session.execute(sql.query("transaction"))
    try:
        yield
    except asyncpg.PostgresError as error:
        if not is_over(error):
            await session.execute(sql.query("rollback"))
        raise
    await session.execute(sql.query("commit" if keep else "rollback"))

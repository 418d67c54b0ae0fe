"""The PostgreSQL backend put together: two connections at rest, a third and fourth for reads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from app.bus.backend import Backend, BackendHealth, Retention
from app.bus.follower import Follower
from app.bus.outcomes import Outcomes
from app.bus.place import Place
from app.bus.postgres import retention as trimming
from app.bus.postgres.append.outbox import Outbox
from app.bus.postgres.append.store import Store
from app.bus.postgres.listen.listener import Listener
from app.bus.postgres.listen.outbox_mover import OutboxMover
from app.bus.postgres.log_reads import PATIENCE_SECONDS, LogReads
from app.bus.postgres.sessions.dsn import parse
from app.bus.postgres.sessions.faults import WORDING
from app.bus.postgres.sessions.refusals import NOT_READY
from app.bus.postgres.sessions.session import RETRY_SECONDS
from app.bus.postgres.sessions.work_connection import WorkConnection, WorkConnections
from app.core.channel import ACCESS, HistoryWindow
from app.core.errors import UnavailableError
from app.core.message import Batch, EpochChange, Message, Page, Position, Record
from app.core.ports import UNMETERED, Meter, Outcome

_READERS = 2
_READER_IDLE_SECONDS = 10.0


class PostgresBackend(Backend):
    """The log in PostgreSQL.

    ``url`` is where commits and reads go, maybe through a pooler in transaction mode; ``direct_url`` is where LISTEN
    goes, or None for ``url``. ``inline`` lets small commits carry their messages inside NOTIFY, which every role of
    the database can listen to.
    """

    def __init__(
        self,
        url: str,
        *,
        direct_url: str | None = None,
        retention: Retention,
        inline: bool = True,
        meter: Meter = UNMETERED,
    ) -> None:
        self._dsn = parse(url, pooled=direct_url is not None and direct_url != url)
        self._retention = retention
        self._work = WorkConnection(self._dsn, "abide work")
        self._outcomes = Outcomes("not connected yet", WORDING)
        self._store = Store(self._work, self._outcomes, inline=inline)
        self._follower = Follower(self._behind)
        outbox = Outbox(self._work, self._outcomes, meter, inline=inline)
        mover = OutboxMover(outbox.move, self._outcomes)
        self._listener = Listener(
            parse(direct_url or url), self._follower, mover, self._store.probe, meter, self._outcomes, inline=inline
        )
        readers = WorkConnections(self._dsn, "abide read", _READERS, idle=_READER_IDLE_SECONDS)
        self._reads = LogReads(readers, self._outcomes, self._listener)
        self._tasks: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        state = self._outcomes.wrong() or "listening"
        return (
            f"<PostgresBackend {self._dsn.place}, {len(self._follower)} followed, {self._follower.held} bytes held: "
            f"{state}>"
        )

    async def connect(self) -> None:
        """Begin to connect, and return at once: a database that is away at start is waited for."""
        self._tasks = [
            asyncio.create_task(self._listener.run(), name="postgres-listener"),
            asyncio.create_task(self._trim(), name="postgres-retention"),
        ]

    async def disconnect(self) -> None:
        """Stop listening and close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(self._work.close(), self._reads.close())

    async def append(self, records: Sequence[Record], deadline: float | None = None) -> list[Outcome]:
        """Store the records in one commit; see the contract."""
        deadline = time.monotonic() + PATIENCE_SECONDS if deadline is None else deadline
        await self._reached(deadline)
        return (await self._store.store(records, deadline)).result()

    async def read(self, channel: str, after: int, limit: int, history: HistoryWindow) -> Page:
        """Read what the history shows; see the contract."""
        await self._reached(time.monotonic() + PATIENCE_SECONDS)
        return await self._reads.page(channel, after, limit, history)

    async def head(self, channel: str) -> int:
        """Return the newest offset."""
        return (await self._reads.place(channel)).head

    async def follow(self, channel: str) -> Position:
        """Begin at the head, which has all that was taken back until now."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        await self._reached(deadline)
        if channel == ACCESS:
            await self._reads.wait_for_taken_back(deadline)
        return await self._follower.follow(channel, self._reads.place)

    async def unfollow(self, channel: str) -> None:
        """Forget the channel."""
        self._follower.unfollow(channel)

    async def next_batch(self) -> Batch | EpochChange:
        """Hand out what was heard, or fetched because it was not heard."""
        while True:
            try:
                return await self._follower.next_batch()
            except UnavailableError:
                await asyncio.sleep(RETRY_SECONDS)

    async def health(self) -> BackendHealth:
        """Say whether what is sent is stored and heard again."""
        wrong = self._outcomes.wrong()
        return BackendHealth(ok=wrong is None, detail=wrong or f"postgres at {self._dsn.place}")

    async def _reached(self, deadline: float) -> None:
        """Wait for the first listening session; raise :class:`UnavailableError` at the deadline."""
        if self._listener.ready.is_set():
            return
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._listener.ready.wait()
        except TimeoutError:
            raise UnavailableError(NOT_READY) from UnavailableError(self._outcomes.wrong() or "no session yet")

    async def _behind(self, wanted: dict[str, int]) -> dict[str, tuple[Place, tuple[Message, ...]]]:
        return await self._reads.behind(wanted)

    async def _trim(self) -> None:
        await self._listener.ready.wait()
        await trimming.run(self._work, self._retention)

"""The PostgreSQL backend put together: two connections at rest, a third and fourth for reads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from app.bus.backend import Retention
from app.bus.log_backend import LogBackend
from app.bus.outcomes import Outcomes
from app.bus.postgres import retention as trimming
from app.bus.postgres.append.outbox import Outbox
from app.bus.postgres.append.store import Store
from app.bus.postgres.listen.listener import Listener
from app.bus.postgres.listen.outbox_mover import OutboxMover
from app.bus.postgres.log_reads import LogReads
from app.bus.postgres.sessions.dsn import parse
from app.bus.postgres.sessions.faults import WORDING
from app.bus.postgres.sessions.refusals import NOT_READY
from app.bus.postgres.sessions.work_connection import WorkConnection, WorkConnections
from app.core.channel import ACCESS
from app.core.message import Position, Record
from app.core.ports import UNMETERED, Meter, Outcome

_READERS = 2
_READER_IDLE_SECONDS = 10.0


class PostgresBackend(LogBackend):
    """The log in PostgreSQL.

    ``url`` is where commits and reads go, maybe through a pooler in transaction mode; ``direct_url`` is where LISTEN
    goes, or None for ``url``. ``inline`` lets small commits carry their messages inside NOTIFY, which every role of
    the database can listen to.
    """

    _reads: LogReads

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
        super().__init__("postgres", self._dsn.place, Outcomes("not connected yet", WORDING), NOT_READY)
        self._store = Store(self._work, self._outcomes, inline=inline)
        outbox = Outbox(self._work, self._outcomes, meter, inline=inline)
        mover = OutboxMover(outbox.move, self._outcomes)
        self._listener = Listener(
            parse(direct_url or url), self._follower, mover, self._store.probe, meter, self._outcomes, inline=inline
        )
        readers = WorkConnections(self._dsn, "abide read", _READERS, idle=_READER_IDLE_SECONDS)
        self._reads = LogReads(readers, self._outcomes, self._listener)
        self._ready = self._listener.ready

    async def connect(self) -> None:
        """Begin to connect, and return at once: a database that is away at start is waited for."""
        self._tasks = [
            asyncio.create_task(self._listener.run(), name="postgres-listener"),
            asyncio.create_task(self._trim(), name="postgres-retention"),
        ]

    async def append(self, records: Sequence[Record], deadline: float | None = None) -> list[Outcome]:
        """Store the records in one commit; see the contract."""
        deadline = await self._reached(deadline)
        return (await self._store.store(records, deadline)).result()

    async def follow(self, channel: str) -> Position:
        """Begin at the head, which has all that was taken back until now."""
        deadline = await self._reached()
        if channel == ACCESS:
            await self._reads.wait_for_taken_back(deadline)
        return await super().follow(channel)

    async def _close(self) -> None:
        await asyncio.gather(self._work.close(), self._reads.close())

    async def _trim(self) -> None:
        await self._ready.wait()
        await trimming.run(self._work, self._retention)

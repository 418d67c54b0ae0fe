"""The PostgreSQL backend put together: two connections at rest, a third and fourth for reads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
import structlog

from app.bus.backend import PAGE_BYTES, Backend, Health, Retention
from app.bus.postgres import retention as trimming
from app.bus.postgres import sql
from app.bus.postgres.listen.follower import Follower, Place
from app.bus.postgres.listen.listener import Listener
from app.bus.postgres.listen.outbox_mover import DrainError, Outbox
from app.bus.postgres.migrations import EMPTY
from app.bus.postgres.outcomes import Outcomes
from app.bus.postgres.rows import Rows
from app.bus.postgres.sessions.dsn import parse
from app.bus.postgres.sessions.faults import explain
from app.bus.postgres.sessions.work_connection import LOST, Link, Links, is_over
from app.bus.postgres.store import NOT_READY, NOTIFY_REFUSED, RETRY_SECONDS, Store, of_data, unavailable
from app.core.channel import HistoryWindow
from app.core.errors import UnavailableError
from app.core.message import Batch, EpochChange, Message, Page, Position, Record, consecutive
from app.core.ports import UNMETERED, Meter, Outcome
from app.core.tail import fitting

PATIENCE_SECONDS = 5.0
"""How long a read waits for a database that is away before it is refused."""

_DRAIN_SECONDS = 3.0
"""How long a drain may take: commits wait for it."""

_READERS = 2
_READER_IDLE_SECONDS = 10.0

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Attempts:
    """What is known of the attempts at one read. One that only waited for its turn tells nothing of the database."""

    begun: bool = False
    last: BaseException | None = None
    """Why the last one did not work."""


class PostgresBackend(Backend):
    """The log in PostgreSQL.

    ``url`` is where commits and reads go, maybe through a pooler in transaction mode;
    ``direct_url`` where LISTEN goes, ``url`` if it is None. ``inline`` lets small commits carry
    their messages inside NOTIFY, which every role of the database could listen to.
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
        pooled = direct_url is not None and direct_url != url
        self._dsn = parse(url, pooled=pooled)
        self._inline = inline
        self._retention = retention
        self._meter = meter
        self._work = Link(self._dsn, "abide work")
        self._readers = Links(self._dsn, "abide read", _READERS, idle=_READER_IDLE_SECONDS)
        self._outcomes = Outcomes("not connected yet")
        self._store = Store(self._work, self._outcomes, inline=inline)
        self._log = Rows()
        self._follower = Follower(self._fetch)
        self._outbox = Outbox(self._drain, self._outcomes)
        self._listener = Listener(
            parse(direct_url or url), self._follower, self._outbox, self._probe, meter, self._outcomes, inline=inline
        )
        self._read_error: str | None = None
        """Why the last read was given up; None since one worked."""
        self._tasks: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        state = self._outcomes.wrong() or "listening"
        return f"<PostgresBackend {self._dsn.place}, {len(self._follower)} followed: {state}>"

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
        await asyncio.gather(self._work.close(), self._readers.close())

    async def append(self, records: Sequence[Record], deadline: float | None = None) -> list[Outcome]:
        """Store the records in one commit; see the contract."""
        deadline = time.monotonic() + PATIENCE_SECONDS if deadline is None else deadline
        await self._reached(deadline)
        return (await self._store.store(records, deadline)).result()

    async def read(self, channel: str, after: int, limit: int, history: HistoryWindow) -> Page:
        """Read what the history shows; see the contract."""
        await self._reached()
        rows = await self._rows_of_epoch("read", channel, after, limit, history.size, history.ttl * 1000, PAGE_BYTES)
        first, head = rows[0]["first"], rows[0]["head"]
        begin = max(after + 1, first)
        found = consecutive(self._log.messages(channel, begin - 1, rows))
        self._log.tell_of_hole(channel, begin, found)
        return Page(first, head, fitting(found[:limit], PAGE_BYTES), rows[0]["lineage"])

    async def head(self, channel: str) -> int:
        """Return the newest offset."""
        return (await self._place(channel)).head

    async def follow(self, channel: str) -> Position:
        """Begin at the head."""
        await self._reached()
        return await self._follower.follow(channel, self._place)

    async def unfollow(self, channel: str) -> None:
        """Forget the channel."""
        self._follower.unfollow(channel)

    async def next_batch(self) -> Batch | EpochChange:
        """Hand out what was heard, or fetched because it was not."""
        while True:
            try:
                return await self._follower.next_batch()
            except UnavailableError:
                await asyncio.sleep(RETRY_SECONDS)

    async def health(self) -> Health:
        """Good while what is sent is stored and heard again."""
        wrong = self._outcomes.wrong()
        return Health(ok=wrong is None, detail=wrong or f"postgres at {self._dsn.place}")

    async def _place(self, channel: str) -> Place:
        (row,) = await self._rows_of_epoch("place", [channel])
        return Place(row["lineage"], row["head"])

    async def _reached(self, deadline: float | None = None) -> None:
        if self._listener.ready.is_set():
            return
        try:
            async with asyncio.timeout(PATIENCE_SECONDS if deadline is None else deadline - time.monotonic()):
                await self._listener.ready.wait()
        except TimeoutError:
            raise UnavailableError(NOT_READY) from UnavailableError(self._outcomes.wrong() or "no session yet")

    async def _fetch(self, wanted: dict[str, int]) -> dict[str, tuple[Place, tuple[Message, ...]]]:
        rows = await self._rows_of_epoch("behind", list(wanted), list(wanted.values()))
        places = {row["channel"]: Place(row["lineage"], row["head"]) for row in rows}
        found: dict[str, list[asyncpg.Record]] = {channel: [] for channel in places}
        for row in rows:
            found[row["channel"]].append(row)
        return {
            channel: (place, consecutive(self._log.messages(channel, wanted[channel], found[channel])))
            for channel, place in places.items()
        }

    async def _drain(self, most: int) -> int | None:
        try:
            with self._outcomes.under_way("drain"):
                async with asyncio.timeout(_DRAIN_SECONDS):
                    row = await self._drain_once(most)
        except (UnavailableError, asyncpg.PostgresError, *LOST) as error:
            if not of_data(error):
                raise DrainError(explain(error)) from error
            if most > 1:  # those before the one that is refused can be moved
                return await self._drain(most // 2)
            msg = f"the oldest row of abide.outbox is refused, and those after it wait: {explain(error)}"
            raise DrainError(msg) from error
        self._outcomes.worked("drain")
        if row["channels"]:
            self._meter.published(dict(zip(row["channels"], row["counts"], strict=True)))
        moved: int | None = row["drained"]
        return moved

    async def _drain_once(self, most: int) -> asyncpg.Record:
        async def drain(inline: bool | None) -> asyncpg.Record:  # noqa: FBT001 — as in SQL
            async with self._work.connection() as connection:
                (row,) = await connection.fetch("SELECT * FROM abide.drain($1, $2)", most, inline)
                return row

        try:
            return await drain(self._inline)
        except NOTIFY_REFUSED as error:
            _log.warning("notify_refused", reason=explain(error))
            return await drain(None)

    async def _probe(self, payload: str) -> str:
        return await self._store.probe(payload)

    async def _trim(self) -> None:
        await self._listener.ready.wait()
        await trimming.run(self._work, self._retention)

    async def _rows_of_epoch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Read what has an epoch. If that is over, one is opened first, so that what is told is of the next one."""
        rows = await self._rows(sql.query(query), *arguments)
        if rows and not rows[0]["certified"]:
            await self._enter()
            rows = await self._rows(sql.query(query), *arguments)
        if not rows:
            raise UnavailableError(NOT_READY) from UnavailableError(EMPTY)
        if rows[0]["epoch"] != self._follower.epoch:
            # One of us is behind: the listener, or this connection, which may be one to a server that is none any more.
            self._listener.look()
            self._readers.renew()
        return rows

    async def _enter(self) -> None:
        try:
            async with (
                asyncio.timeout(PATIENCE_SECONDS),
                self._readers.connection(self._listener.sessions) as connection,
            ):
                await connection.fetch("SELECT abide.enter()")
        except asyncpg.ReadOnlySQLTransactionError:
            pass  # nothing is appended there, so what can be read is all that there is
        except (UnavailableError, *LOST, asyncpg.PostgresError) as error:
            self._read_failed(error)
            raise unavailable(error) from error

    async def _rows(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Read; again where the connection is lost, for a read can be repeated.

        Raises :class:`UnavailableError` when the database stays away.
        """
        attempts = _Attempts()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                rows = await self._read(attempts, query, arguments)
        except (*LOST, UnavailableError, asyncpg.PostgresError) as error:
            if attempts.begun:
                self._read_failed(attempts.last or error)
            raise unavailable(error) from error
        self._outcomes.worked("read")
        self._read_error = None
        return rows

    async def _read(self, attempts: _Attempts, query: str, arguments: tuple[object, ...]) -> list[asyncpg.Record]:
        renewed = False
        while True:
            try:
                async with self._readers.connection(self._listener.sessions) as connection:
                    attempts.begun = True
                    with self._outcomes.under_way("read"):
                        rows: list[asyncpg.Record] = await connection.fetch(query, *arguments)
            except (UnavailableError, *LOST) as error:
                attempts.begun, attempts.last = True, error
                await asyncio.sleep(RETRY_SECONDS)
            except asyncpg.PostgresError as error:
                if renewed or not is_over(error):
                    raise
                renewed = True
            else:
                return rows

    def _read_failed(self, error: BaseException) -> None:
        reason = explain(error)
        if not of_data(error):
            self._outcomes.failed("read", reason)
        if reason != self._read_error:
            _log.error("read_given_up", reason=reason)
        self._read_error = reason

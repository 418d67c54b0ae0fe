"""The PostgreSQL backend put together: two connections at rest, a third and fourth for reads."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import NoReturn

import asyncpg
import structlog
from asyncpg.pool import PoolConnectionProxy

from app.bus import sql
from app.bus.backend import PAGE_BYTES, Backend, Health, Retention
from app.bus.postgres import retention as trimming
from app.bus.postgres import wire
from app.bus.postgres.append import Commit
from app.bus.postgres.dsn import parse
from app.bus.postgres.follower import Follower, Place
from app.bus.postgres.link import COMMAND_SECONDS, CONNECT_SECONDS, LOST, Link, describe
from app.bus.postgres.listener import Listener
from app.bus.postgres.outbox import DrainError, Outbox
from app.bus.postgres.rows import Rows
from app.bus.postgres.waiting import Waiting
from app.core.channel import History
from app.core.errors import OutcomeUnknownError, UnavailableError, bare
from app.core.message import Batch, Message, Page, Position, Record, consecutive
from app.core.ports import UNMETERED, Meter, Outcome
from app.core.tail import fitting

PATIENCE_SECONDS = 5.0
"""How long a publish or a read waits for a database that is away before it is refused."""

_NOT_READY = "the database is not ready: try again in a moment"
_REFUSED = "the database refused this: try again in a moment"
"""What clients are told. The reason, with names and addresses in it, is for the log and for readiness."""

_RETRY_SECONDS = 0.05
_READERS = 2
_READER_IDLE_SECONDS = 10.0

# The statement had no effect, and may have one if it is sent again.
_TRY_AGAIN = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError)

# NOTIFY's queue is full: somebody listens and does not read. No transaction that notifies can commit then.
_NOTIFY_REFUSED = asyncpg.ProgramLimitExceededError

Executor = asyncpg.Connection | PoolConnectionProxy
"""What runs a statement."""

_log = structlog.get_logger(__name__)


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
        self._waiting = Waiting()
        self._log = Rows()
        self._follower = Follower(self._fetch)
        self._outbox = Outbox(self._drain)
        self._listener = Listener(
            parse(direct_url or url), self._follower, self._outbox, self._notify, meter, inline=inline
        )
        self._readers: asyncpg.Pool | None = None
        self._read_error: str | None = None
        """Why the last read was given up; None since one worked."""
        self._tasks: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        state = self._listener.error or "listening"
        return f"<PostgresBackend {self._dsn.place}, {len(self._follower)} followed: {state}>"

    @property
    def epoch(self) -> str:
        """The installation's; empty until the database was reached for the first time."""
        return self._follower.epoch

    async def connect(self) -> None:
        """Begin to connect, and return at once: a database that is away at start is waited for."""
        self._readers = asyncpg.create_pool(
            self._dsn.url,
            min_size=0,
            max_size=_READERS,
            max_inactive_connection_lifetime=_READER_IDLE_SECONDS,
            reset=_keep_session,
            timeout=CONNECT_SECONDS,
            command_timeout=COMMAND_SECONDS,
            statement_cache_size=0 if self._dsn.pooled else 100,
            server_settings={"application_name": "abide read"},
        )
        await self._readers
        self._tasks = [
            asyncio.create_task(self._listener.run(), name="postgres-listener"),
            asyncio.create_task(self._trim(), name="postgres-retention"),
        ]

    async def disconnect(self) -> None:
        """Stop listening and close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._work.drop("disconnected")
        if self._readers is not None:
            self._readers.terminate()

    async def append(self, records: Sequence[Record]) -> list[Outcome]:
        """Store the records in one commit; see the contract."""
        await self._reached()
        commit = Commit(records, self.epoch, self._inline)
        try:
            with self._waiting.under_way("a commit"):
                await self._store(commit)
        except _GaveUpError:
            pass  # what is open was closed with the reason
        return commit.result()

    async def _store(self, commit: Commit) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        interrupted = False
        while commit.open():
            try:
                query, arguments = commit.call()
                async with self._work.connection() as connection:
                    rows = await connection.fetch(sql.query(query), *arguments)
                commit.settle(tuple(row) for row in rows)
            except (UnavailableError, *_TRY_AGAIN) as error:  # nothing was stored this time
                if time.monotonic() > deadline:
                    self._give_up(commit, error, interrupted=interrupted)
                await asyncio.sleep(_RETRY_SECONDS)
            except LOST as error:
                interrupted = True
                self._give_up_keyless(commit, error)
                if time.monotonic() > deadline:
                    self._give_up(commit, error, interrupted=True)
            except _NOTIFY_REFUSED as error:
                if commit.inline is None:
                    self._give_up(commit, error, interrupted=interrupted)
                _log.warning("notify_refused", reason=describe(error))
                commit.inline = None  # followers find out by their poll
            except asyncpg.PostgresError as error:
                self._give_up(commit, error, interrupted=interrupted)

    async def read(self, channel: str, after: int, limit: int, history: History) -> Page:
        """Read what the history shows; see the contract."""
        await self._reached()  # by now the epoch is known, by which who asks judges a position
        rows = await self._rows(sql.query("read"), channel, after, limit, history.size, history.ttl * 1000, PAGE_BYTES)
        first, head = rows[0]["first"], rows[0]["head"]
        begin = max(after + 1, first)
        found = consecutive(self._log.messages(channel, begin - 1, rows))
        self._log.tell_of_hole(channel, begin, found)
        return Page(first, head, fitting(found[:limit], PAGE_BYTES))

    async def head(self, channel: str) -> int:
        """Return the newest offset."""
        head, _ = await self._place(channel)
        return head

    async def follow(self, channel: str) -> Position:
        """Begin at the head."""
        await self._reached()
        return Position(self.epoch, await self._follower.follow(channel, self._place))

    async def unfollow(self, channel: str) -> None:
        """Forget the channel."""
        self._follower.unfollow(channel)

    async def next_batch(self) -> Batch:
        """Hand out what was heard, or fetched because it was not."""
        while True:
            try:
                return await self._follower.next_batch()
            except UnavailableError:
                await asyncio.sleep(_RETRY_SECONDS)

    async def health(self) -> Health:
        """Good while LISTEN hears its heartbeats, the last commit reached the database, and none waits long."""
        error = self._listener.error or self._work.error or self._waiting.late()
        return Health(ok=error is None, detail=error or f"postgres at {self._dsn.place}")

    async def _place(self, channel: str) -> Place:
        (row,) = await self._rows(sql.query("head"), channel)
        return row["head"], row["now"]

    async def _reached(self) -> None:
        if self._listener.ready.is_set():
            return
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._listener.ready.wait()
        except TimeoutError:
            raise UnavailableError(_NOT_READY) from UnavailableError(self._listener.error or "no session yet")

    def _give_up_keyless(self, commit: Commit, error: BaseException) -> None:
        """Leave open only what can be sent again: what has a key is stored once, however often it is sent."""
        _log.warning("commit_interrupted", reason=describe(error), messages=len(commit.open()))
        for index in commit.open():
            if commit.records[index].key is None:
                commit.outcomes[index] = _unknown()

    def _give_up(self, commit: Commit, error: BaseException, *, interrupted: bool) -> NoReturn:
        """Close what is open. A refusal does not tell what became of an attempt that was interrupted before."""
        _log.error("commit_given_up", reason=describe(error), messages=len(commit.open()))
        for index in commit.open():
            commit.outcomes[index] = _unknown() if interrupted else bare(_unavailable(error))
        raise _GaveUpError from error

    async def _fetch(self, wanted: dict[str, int]) -> dict[str, tuple[int, tuple[Message, ...]]]:
        rows = await self._rows(sql.query("behind"), list(wanted), list(wanted.values()))
        heads = {row["channel"]: row["head"] for row in rows}
        found: dict[str, list[asyncpg.Record]] = {channel: [] for channel in heads}
        for row in rows:
            found[row["channel"]].append(row)
        return {
            channel: (head, consecutive(self._log.messages(channel, wanted[channel], found[channel])))
            for channel, head in heads.items()
        }

    async def _drain(self, most: int) -> int | None:
        try:
            with self._waiting.under_way("a drain of the outbox"):
                row = await self._drain_once(most)
        except (UnavailableError, asyncpg.PostgresError, *LOST) as error:
            raise DrainError(describe(error)) from error
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
        except _NOTIFY_REFUSED as error:
            _log.warning("notify_refused", reason=describe(error))
            return await drain(None)

    async def _notify(self, payload: str) -> None:
        async with self._work.connection() as connection:
            await connection.execute("SELECT pg_notify($1, $2)", wire.TOPIC, payload)

    async def _trim(self) -> None:
        await self._listener.ready.wait()
        await trimming.run(self._work, self._retention)

    async def _rows(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Read; again where the connection is lost, for a read can be repeated.

        Raises :class:`UnavailableError` when the database stays away.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                async with self._reader() as connection:
                    rows: list[asyncpg.Record] = await connection.fetch(query, *arguments)
            except (*LOST, asyncpg.PostgresError) as error:
                if not isinstance(error, LOST) or time.monotonic() > deadline:
                    self._read_failed(error)
                    raise _unavailable(error) from error
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self._read_error = None
                return rows

    def _read_failed(self, error: BaseException) -> None:
        reason = describe(error)
        if reason != self._read_error:
            _log.error("read_given_up", reason=reason)
        self._read_error = reason

    @contextlib.asynccontextmanager
    async def _reader(self) -> AsyncIterator[Executor]:
        assert self._readers is not None  # noqa: S101 — connected first, says the contract
        async with self._readers.acquire(timeout=PATIENCE_SECONDS) as connection:
            if self._dsn.pooled:
                async with connection.transaction():
                    yield connection
            else:
                yield connection


class _GaveUpError(Exception):
    """A commit's outcomes are known, and not good."""


async def _keep_session(_: object) -> None:
    """Give a reader back as it is: reads change nothing in a session, and to reset it is one more round trip."""


def _unavailable(error: BaseException) -> UnavailableError:
    away = isinstance(error, (UnavailableError, *LOST))
    refusal = UnavailableError(_NOT_READY if away else _REFUSED)
    refusal.__cause__ = error
    return refusal


def _unknown() -> OutcomeUnknownError:
    return OutcomeUnknownError(
        "the link to the database broke during the commit: the message may be stored or not; "
        "with an idempotency key it is safe to send it again"
    )

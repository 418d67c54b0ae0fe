"""How a commit gets into the database by its deadline, whatever is locked or dead; and the probe, for readiness.

Attempts go on until the deadline, as long as another one may work; a refusal that would come again ends them. A commit
that the database refuses for its data is taken apart, so that each message has an outcome of its own. The outcome of an
attempt that was interrupted is unknown, and is never reported as "not stored".

The probe is a commit without a message, sent some seconds after the last commit that worked; in between, a notification
alone is sent. After a failure each one is a probe. It rehearses a commit like the one that failed and undoes it. Only
when that works does the database count as well again, because a small commit may fit where a large one does not.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import asyncpg
import structlog

from app.bus.outcomes import Outcomes
from app.bus.postgres import sql
from app.bus.postgres.append.commit import Commit
from app.bus.postgres.sessions.faults import explain, grant, sqlstate
from app.bus.postgres.sessions.refusals import NOTIFY_REFUSED, TRY_AGAIN, of_data, unavailable
from app.bus.postgres.sessions.session import LOST, RETRY_SECONDS, is_over
from app.bus.postgres.sessions.work_connection import WorkConnection
from app.core.errors import MalformedError, OutcomeUnknownError, UnavailableError, bare
from app.core.message import Record

_PROBE_SECONDS = 3.0
"""How long a probe may take."""

_PROVED_SECONDS = 3.5
"""No probe is sent for this long after a commit or a probe that worked. A failure is then known within ten seconds,
with the two for which the next probe may be under way. A probe costs the database as much as five notifications."""

_LOCK_SECONDS = 2.0
"""The longest that a statement waits for a lock, as session.sql sets it. With less time left, no other attempt begins,
because its outcome would be unknown."""

_log = structlog.get_logger(__name__)


class _GaveUpError(Exception):
    """All outcomes of the commit are known, and some are refusals."""


@dataclass(slots=True)
class _CommitAttempts:
    """What is known of the attempts at one commit."""

    deadline: float
    under_way: bool = False
    """One was sent and is not answered yet."""
    interrupted: bool = False
    """The outcome of an earlier one is unknown."""
    last: BaseException | None = None
    """The error of the last one that was answered."""
    renewed: bool = False
    """Another connection was tried after one turned out to be of no more use."""


class Store:
    """Stores commits one at a time, and probes whether it could. ``inline`` is as in :class:`Commit`."""

    def __init__(self, connection: WorkConnection, outcomes: Outcomes, *, inline: bool) -> None:
        self._connection = connection
        self._outcomes = outcomes
        self._inline = inline
        self._suspect: Record | None = None
        """A record like one that was refused, until its rehearsal works."""
        self._doubted = False
        """Whether something failed since the last probe that worked. Then no commit tells anything of another."""
        self._proved = float("-inf")
        """When a commit or a probe last worked."""
        self._locked: asyncpg.LockNotAvailableError | None = None
        """The error of the last attempt, if it waited for a lock in vain."""
        self._said = ""
        """Why the last commit was given up; empty since a probe worked."""

    async def store(self, records: Sequence[Record], deadline: float) -> Commit:
        """Store the records; return their commit with an outcome for each, at the deadline at the latest."""
        commit, attempts = Commit(records, self._inline), _CommitAttempts(deadline)
        try:
            with self._outcomes.under_way("commit"):
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._try(commit, attempts)
        except TimeoutError as error:
            self._close(commit, attempts, attempts.last or error)
        except _GaveUpError:
            pass  # each open record has its refusal
        else:
            if not self._doubted:
                self._proved = time.monotonic()
                self._outcomes.worked("commit")
        return commit

    async def probe(self, payload: str) -> str:
        """Send listeners a notification, by a probe where one is due; return the database that it reached (server.sql).

        Raises :class:`UnavailableError`, and what asyncpg raises, when that fails.
        """
        try:
            with self._outcomes.under_way("commit"):
                async with asyncio.timeout(_PROBE_SECONDS):
                    place, denied = await self._probe(payload)
        except (UnavailableError, asyncpg.PostgresError, *LOST) as error:
            self._failed(self._reason(error))
            raise
        if denied:
            self._failed(grant(denied))
        else:
            self._suspect, self._doubted, self._said = None, False, ""
            self._outcomes.worked("commit")
        return place

    async def _try(self, commit: Commit, attempts: _CommitAttempts) -> None:
        """Store the open records of the commit; raise :class:`_GaveUpError` when another attempt is of no use."""
        while commit.open():
            try:
                commit.settle(await self._send(commit, attempts))
            except UnavailableError as error:  # nothing was sent
                await self._again(attempts, error)
            except asyncpg.PostgresError as error:
                attempts.under_way = attempts.under_way and isinstance(error, LOST)
                await self._answer(commit, attempts, error)
            except LOST as error:
                await self._answer(commit, attempts, error)

    async def _send(self, commit: Commit, attempts: _CommitAttempts) -> Iterable[tuple[object, ...]]:
        query, arguments = commit.call()
        async with self._connection.session() as session:
            locked = self._locked if time.monotonic() + _LOCK_SECONDS > attempts.deadline else None
            if locked is None:
                attempts.under_way = True
                rows = await session.fetch(sql.query(query), *arguments)
        if locked is not None:
            raise UnavailableError(explain(locked))
        attempts.under_way, self._locked = False, None
        return [tuple(row) for row in rows]

    async def _answer(self, commit: Commit, attempts: _CommitAttempts, error: BaseException) -> None:
        """React to an attempt that failed; return if another one is to follow."""
        if isinstance(error, LOST):
            self._lost(commit, attempts, error)
        elif isinstance(error, TRY_AGAIN):
            await self._again(attempts, error)
        elif isinstance(error, NOTIFY_REFUSED) and commit.inline is not None:
            _log.warning("notify_refused", reason=explain(error))
            commit.inline = None  # followers find out by their poll
        elif of_data(error):
            await self._apart(commit, attempts, error)
        elif is_over(error) and not attempts.renewed:
            attempts.renewed = True
        else:
            self._close(commit, attempts, error)
            raise _GaveUpError from error

    async def _again(self, attempts: _CommitAttempts, error: BaseException) -> None:
        """Wait a moment before another attempt."""
        attempts.last = error
        self._outcomes.hint("commit", explain(error))
        if isinstance(error, asyncpg.LockNotAvailableError):
            self._locked = error
        await asyncio.sleep(RETRY_SECONDS)

    def _lost(self, commit: Commit, attempts: _CommitAttempts, error: BaseException) -> None:
        """Leave open only what can be sent again. A record with a key is stored once, however often it is sent."""
        attempts.last = error
        self._outcomes.hint("commit", explain(error))
        if not attempts.under_way:
            return
        _log.warning("commit_interrupted", reason=explain(error), messages=len(commit.open()))
        attempts.under_way, attempts.interrupted = False, True
        for index in commit.open():
            if commit.records[index].key is None:
                commit.outcomes[index] = _unknown()
        self._outcomes.failed("commit", explain(error), certain=False)

    async def _apart(self, commit: Commit, attempts: _CommitAttempts, error: BaseException) -> None:
        """Store a commit that was refused for its data in two halves, each again in halves, down to single messages."""
        indexes = commit.open()
        self._suspect, self._doubted = _like(commit.records[indexes[0]]), True
        if len(indexes) == 1:
            _log.warning("message_refused", channel=commit.records[indexes[0]].channel, reason=explain(error))
            refusal = MalformedError(f"the database refuses the data of this message (SQLSTATE {sqlstate(error)})")
            refusal.__cause__ = error
            commit.outcomes[indexes[0]] = bare(refusal)
            return
        middle = len(indexes) // 2
        for part in (indexes[:middle], indexes[middle:]):
            half = Commit([commit.records[index] for index in part], commit.inline)
            try:
                await self._try(half, attempts)
            finally:  # at the deadline, too
                commit.outcomes.update((part[number], outcome) for number, outcome in half.outcomes.items())

    def _close(self, commit: Commit, attempts: _CommitAttempts, error: BaseException) -> None:
        """Refuse the open records. After an attempt that was interrupted, a refusal does not tell their outcome."""
        reason = self._reason(error)
        unknown = attempts.under_way or attempts.interrupted
        indexes = commit.open()
        if reason != self._said:  # once, until a probe works again: there may be many publishers
            _log.error("commit_given_up", reason=reason, messages=len(indexes))
        self._said = reason
        for index in indexes:
            commit.outcomes[index] = _unknown() if unknown else bare(unavailable(error))
        if indexes:
            self._suspect = _like(
                max((commit.records[index] for index in indexes), key=lambda record: len(record.data))
            )
        self._failed(reason)

    def _reason(self, error: BaseException) -> str:
        hint = self._outcomes.hinted("commit") if isinstance(error, TimeoutError) else ""
        return f"no answer in time: {hint}" if hint else explain(error)

    def _failed(self, reason: str) -> None:
        self._doubted = True
        self._outcomes.failed("commit", reason)

    async def _probe(self, payload: str) -> tuple[str, list[str]]:
        """Return which database it was, and the functions that this role may not run there."""
        try:
            return await self._beat(payload)
        except NOTIFY_REFUSED as error:
            _log.warning("notify_refused", reason=explain(error))
            # Nothing else moves the queue's end past a session that listened and has left.
            async with self._connection.session() as session:
                await session.fetchval(sql.query("queue_usage"))
        except (asyncpg.PostgresError, *LOST) as error:
            if not is_over(error):
                raise
        return await self._beat(payload)

    async def _beat(self, payload: str) -> tuple[str, list[str]]:
        if self._suspect is not None:
            query, arguments = Commit([self._suspect], None).call()
            async with self._connection.session(keep=False) as session:
                await session.fetch(sql.query(query), *arguments)
        now = time.monotonic()
        is_due = self._doubted or now - self._proved > _PROVED_SECONDS
        async with self._connection.session() as session:
            (row,) = await session.fetch(sql.query("probe" if is_due else "notify"), payload)
        if is_due:
            self._proved = now
        return row["place"], row["denied"]


def _like(record: Record) -> Record:
    """Return a record of the same channel and size, with a key of its own if this one has a key."""
    data = b'"%s"' % (b"." * len(record.data))
    return Record(record.channel, data, None if record.key is None else secrets.token_hex(8))


def _unknown() -> OutcomeUnknownError:
    return OutcomeUnknownError(
        "the connection to the database broke during the commit: the message may be stored or not; "
        "with an idempotency key it is safe to send it again"
    )

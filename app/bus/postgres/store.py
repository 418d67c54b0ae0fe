"""How a commit gets into the database by its deadline, whatever is locked or dead, and how it is known that one would.

Attempts go on until the deadline, where another one may work; a "no" that would be said again ends them. A database
that refuses a commit for its data has it taken apart, so that each message has an outcome of its own. What became of an
attempt that was interrupted is unknown, and is never told as "not stored".

The probe is a commit without a message, some seconds after the last commit that worked; between two, a notification
alone is sent. After a failure there is one each time, and it rehearses a commit like the one that failed, and takes it
back: only when that works does the database count as well again, for a small commit may fit where a large one does not.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import asyncpg
import structlog

from app.bus.postgres import sql
from app.bus.postgres.append import Commit
from app.bus.postgres.outcomes import Outcomes
from app.bus.postgres.sessions.faults import explain, grant, sqlstate
from app.bus.postgres.sessions.work_connection import LOST, Link, is_over
from app.core.errors import MalformedError, OutcomeUnknownError, UnavailableError, bare
from app.core.message import Record

NOT_READY = "the database is not ready: try again in a moment"
REFUSED = "the database refused this: try again in a moment"
"""What clients are told. The reason, with names and addresses in it, is for the log and for readiness."""

RETRY_SECONDS = 0.05

_PROBE_SECONDS = 3.0
"""How long a probe may take."""

_PROVED_SECONDS = 3.5
"""So long after a commit or a probe that worked no probe is sent: what fails then is known within ten seconds, with the
two for which it may be under way. A probe costs the database as much as five notifications."""

_LOCK_SECONDS = 2.0
"""How long a statement waits for a lock, at most: session.sql says so. Without that much time no other is begun, for
its outcome would be unknown."""

TRY_AGAIN = (
    asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
)  # fmt: skip
"""The statement had no effect, and may have one if it is sent again."""

NOTIFY_REFUSED = asyncpg.ProgramLimitExceededError
"""NOTIFY's queue is full, maybe: somebody listens and does not read. No transaction that notifies can commit then."""

_OF_DATA = ("22", "23", "44", "54", "P0")
_OF_PLACES = "23505"
"""Classes of SQLSTATEs that say that it is the data which is refused; but not that its place in the log is taken."""

_log = structlog.get_logger(__name__)


def of_data(error: BaseException) -> bool:
    """Whether it is the data that the database refuses."""
    state = sqlstate(error)
    return state.startswith(_OF_DATA) and state != _OF_PLACES


def unavailable(error: BaseException) -> UnavailableError:
    """Return what clients are told of an error after which nothing was stored."""
    refusal = UnavailableError(NOT_READY if isinstance(error, (UnavailableError, *LOST)) else REFUSED)
    refusal.__cause__ = error
    return refusal


class _GaveUpError(Exception):
    """A commit's outcomes are known, and not good."""


@dataclass(slots=True)
class _Attempts:
    """What is known of the attempts at one commit."""

    deadline: float
    under_way: bool = False
    """One was sent, and is not answered."""
    interrupted: bool = False
    """What became of an earlier one is unknown."""
    last: BaseException | None = None
    """What became of the last one that was answered."""
    renewed: bool = False
    """Another connection was tried after one that was of no more use."""


class Store:
    """Stores commits over ``link``, one at a time, and probes whether it could. ``inline`` as in :class:`Commit`."""

    def __init__(self, link: Link, outcomes: Outcomes, *, inline: bool) -> None:
        self._link = link
        self._outcomes = outcomes
        self._inline = inline
        self._suspect: Record | None = None
        """A record like one that was refused, until its rehearsal works."""
        self._doubted = False
        """Whether something failed since the last probe that worked: no commit then tells of any other."""
        self._proved = float("-inf")
        """When a commit or a probe last worked."""
        self._locked: asyncpg.LockNotAvailableError | None = None
        """What the last attempt got that waited for a lock in vain."""
        self._said = ""
        """Why the last commit was given up, since a probe worked."""

    async def store(self, records: Sequence[Record], deadline: float) -> Commit:
        """Return the commit of the records with an outcome for each, at the deadline at the latest."""
        commit, attempts = Commit(records, self._inline), _Attempts(deadline)
        try:
            with self._outcomes.under_way("commit"):
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._try(commit, attempts)
        except TimeoutError as error:
            self._close(commit, attempts, attempts.last or error)
        except _GaveUpError:
            pass  # what was open was closed with the reason
        else:
            if not self._doubted:
                self._proved = time.monotonic()
                self._outcomes.worked("commit")
        return commit

    async def probe(self, payload: str) -> str:
        """Send listeners a notification by a commit without a message; return which database that was: see server.sql.

        Raises :class:`UnavailableError`, and what asyncpg raises, when that does not work.
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

    async def _try(self, commit: Commit, attempts: _Attempts) -> None:
        """Store what is open of the commit; raise :class:`_GaveUpError` when that is of no more use."""
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

    async def _send(self, commit: Commit, attempts: _Attempts) -> Iterable[tuple[object, ...]]:
        query, arguments = commit.call()
        async with self._link.connection() as session:
            locked = self._locked if time.monotonic() + _LOCK_SECONDS > attempts.deadline else None
            if locked is None:
                attempts.under_way = True
                rows = await session.fetch(sql.query(query), *arguments)
        if locked is not None:
            raise UnavailableError(explain(locked))
        attempts.under_way, self._locked = False, None
        return [tuple(row) for row in rows]

    async def _answer(self, commit: Commit, attempts: _Attempts, error: BaseException) -> None:
        """Do what is right after an attempt that failed; return when another one is."""
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

    async def _again(self, attempts: _Attempts, error: BaseException) -> None:
        """Wait a moment before another attempt."""
        attempts.last = error
        self._outcomes.hint("commit", explain(error))
        if isinstance(error, asyncpg.LockNotAvailableError):
            self._locked = error
        await asyncio.sleep(RETRY_SECONDS)

    def _lost(self, commit: Commit, attempts: _Attempts, error: BaseException) -> None:
        """Leave open only what can be sent again: what has a key is stored once, however often it is sent."""
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

    async def _apart(self, commit: Commit, attempts: _Attempts, error: BaseException) -> None:
        """Store one half after the other of a commit that was refused for its data, down to a message."""
        indexes = commit.open()
        self._suspect, self._doubted = _like(commit.records[indexes[0]]), True
        if len(indexes) == 1:
            _log.warning("message_refused", channel=commit.records[indexes[0]].channel, reason=explain(error))
            refusal = MalformedError(
                f"the database does not take this message for its data (SQLSTATE {sqlstate(error)})"
            )
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

    def _close(self, commit: Commit, attempts: _Attempts, error: BaseException) -> None:
        """Close what is open. A refusal does not tell what became of an attempt that was interrupted before."""
        reason = self._reason(error)
        unknown = attempts.under_way or attempts.interrupted
        indexes = commit.open()
        if reason != self._said:  # once, until a probe works again: publishers may be many
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
            # The queue's end moves when somebody asks for it: nothing else does it for one who listened and left.
            async with self._link.connection() as session:
                await session.fetchval("SELECT pg_notification_queue_usage()")
        except (asyncpg.PostgresError, *LOST) as error:
            if not is_over(error):
                raise
        return await self._beat(payload)

    async def _beat(self, payload: str) -> tuple[str, list[str]]:
        if self._suspect is not None:
            query, arguments = Commit([self._suspect], None).call()
            async with self._link.connection(keep=False) as session:
                await session.fetch(sql.query(query), *arguments)
        now = time.monotonic()
        is_due = self._doubted or now - self._proved > _PROVED_SECONDS
        async with self._link.connection() as session:
            (row,) = await session.fetch(sql.query("probe" if is_due else "notify"), payload)
        if is_due:
            self._proved = now
        return row["place"], row["denied"]


def _like(record: Record) -> Record:
    """Return a record of the same channel and size, with a key of its own where that has one."""
    data = b'"%s"' % (b"." * len(record.data))
    return Record(record.channel, data, None if record.key is None else secrets.token_hex(8))


def _unknown() -> OutcomeUnknownError:
    return OutcomeUnknownError(
        "the link to the database broke during the commit: the message may be stored or not; "
        "with an idempotency key it is safe to send it again"
    )

"""How a commit gets into the file by its deadline, whatever holds a lock; and the probe, for readiness.

A commit waits for its turn until the deadline. At the deadline it is given up, unless its COMMIT has begun: then nobody
knows yet whether it is stored. The thread and the event loop agree on which of the two it is.

The probe takes the lock that a commit takes, and gives it back: this writes nothing, so a server at rest leaves the
disk alone. After a failure, or where the disk has next to no room, it writes as much as the commit that failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence

import structlog

from app.bus.outcomes import Outcomes
from app.bus.sqlite import commit as commits
from app.bus.sqlite.commit import Commit, Draft
from app.bus.sqlite.file.file_faults import FileError, ReplacedError, explain, is_in_doubt, unavailable
from app.bus.sqlite.file.open_file import Opened
from app.bus.sqlite.file.transactions import transaction, turn
from app.bus.sqlite.log_file import LogFile
from app.core.errors import OutcomeUnknownError, bare
from app.core.message import Record
from app.core.ports import Outcome

_PROBE_SECONDS = 3.0
"""How long a probe may take."""

_PROVED_SECONDS = 3.5
"""No probe is needed for this long after a commit or a probe that worked."""

RETRY_SECONDS = 0.05
"""Before another attempt where the file is being opened again, by which nothing was stored."""

_LEAST_ROOM = 4 * 1024 * 1024
"""With less room on the disk, in bytes, the probe writes."""

_LARGEST_PROBE = 1024 * 1024

_log = structlog.get_logger(__name__)


Told = Callable[[Commit], None]
"""Is told of a commit that is stored."""


class _DeadlineError(Exception):
    """The deadline has come, and the thread has not answered."""


class _GivenUpError(Exception):
    """The deadline has come before COMMIT."""


class _InDoubtError(Exception):
    """COMMIT has begun and failed, or the file was gone after it; the cause is the error."""


class _Attempt:
    """One commit: the thread that writes makes it, while the event loop waits for it."""

    def __init__(self, records: Sequence[Record], deadline: float) -> None:
        self._draft = Draft(records)
        self.deadline = deadline
        self._lock = threading.Lock()
        self._is_given_up = False
        self._is_committing = False
        self.locked: sqlite3.OperationalError | None = None
        """Why it waits for its turn."""

    def give_up(self) -> BaseException:
        """Make no commit any more, unless COMMIT has begun; return why none was made, or that it is not known."""
        with self._lock:
            self._is_given_up = not self._is_committing
        if self._is_given_up:
            return self.locked or TimeoutError()
        doubt = _InDoubtError()
        doubt.__cause__ = TimeoutError()
        return doubt

    def make(self, opened: Opened) -> Commit:
        """Commit the records. If it raises anything but :class:`_InDoubtError`, nothing is stored."""
        self._wait()
        with turn(opened, self._wait) as connection:
            commit = commits.write(connection, self._draft, opened.seen)
            if commit.number:
                self._commit(connection)
        opened.seen = max(opened.seen, commit.number)
        try:
            opened.check()
        except ReplacedError as error:
            raise _InDoubtError from error
        return commit

    def _wait(self, error: sqlite3.OperationalError | None = None) -> None:
        self.locked = error
        if self._is_given_up or time.monotonic() > self.deadline:
            raise _GivenUpError

    def _commit(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if self._is_given_up:
                raise _GivenUpError
            self._is_committing = True
        try:
            connection.commit()  # fewer hand-overs between threads than by execute()
        except sqlite3.Error as error:
            if is_in_doubt(error):
                raise _InDoubtError from error
            raise


class Store:
    """Stores commits one at a time, and probes whether it could."""

    def __init__(self, file: LogFile, outcomes: Outcomes) -> None:
        self._file = file
        self._outcomes = outcomes
        self._proved = float("-inf")
        """When a commit or a probe last worked."""
        self._suspect = 0
        """Bytes of the last commit that failed, until as much could be written."""
        self._said = ""
        """Why the last commit failed; empty since one worked."""

    async def store(self, records: Sequence[Record], deadline: float, *, tell: Told, hear: Told) -> list[Outcome]:
        """Store the records; return an outcome for each, at the deadline at the latest.

        ``tell`` is called in the thread that writes, with the commit if it is stored, and ``hear`` on the event loop.
        Raises :class:`UnavailableError` if nothing was stored.
        """
        with self._outcomes.under_way("commit"):
            while True:
                attempt = _Attempt(records, deadline)
                made = await self._make(attempt, tell, hear)
                if isinstance(made, Commit):
                    hear(made)
                    return self._stored(made)
                if not isinstance(made, FileError) or time.monotonic() + RETRY_SECONDS > deadline:
                    return self._failed(records, made)
                self._outcomes.hint("commit", explain(made, self._file.path))
                await self._opened_again(deadline)

    async def _make(self, attempt: _Attempt, tell: Told, hear: Told) -> Commit | BaseException:
        """Make a commit; return it, or why there is none."""

        def make(opened: Opened) -> Commit:
            commit = attempt.make(opened)
            if commit.number:
                tell(commit)
            return commit

        making = self._file.writes(make, late=hear)
        left = max(0.0, attempt.deadline - time.monotonic())
        timer = asyncio.get_running_loop().call_later(left, _end, making)
        try:
            return await making
        except _DeadlineError:
            return attempt.give_up()
        except _GivenUpError:
            return attempt.locked or TimeoutError()
        except Exception as error:  # noqa: BLE001 — it is returned
            return error
        finally:
            timer.cancel()

    async def _opened_again(self, deadline: float) -> None:
        """Wait until the file is open, or the deadline has come."""
        await asyncio.sleep(RETRY_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline - RETRY_SECONDS - time.monotonic()):
                await self._file.is_open.wait()

    async def probe(self) -> None:
        """Find out whether a commit would be stored, unless one was just now."""
        if not self._suspect and time.monotonic() - self._proved < _PROVED_SECONDS:
            return
        probing = self._file.writes(self._try)
        with self._outcomes.under_way("commit"):
            await asyncio.wait((probing,), timeout=_PROBE_SECONDS)
        if not probing.done():
            self._doubt(TimeoutError())
        elif (error := probing.exception()) is None:
            self._suspect = 0
            self._works()
        else:
            self._doubt(error)

    def _stored(self, commit: Commit) -> list[Outcome]:
        if commit.has_begun_epoch:
            _log.error("epoch_begun", file=str(self._file.path), detail="the log has gone back, or was changed by hand")
        if not self._suspect:
            self._works()
        return commit.outcomes

    def _works(self) -> None:
        self._proved, self._said = time.monotonic(), ""
        self._outcomes.worked("commit")

    def _failed(self, records: Sequence[Record], error: BaseException) -> list[Outcome]:
        is_unknown = isinstance(error, _InDoubtError)
        cause = (error.__cause__ or error) if is_unknown else error
        self._suspect = min(sum(len(record.data) for record in records), _LARGEST_PROBE)
        reason = self._doubt(cause)
        if reason != self._said:
            _log.error("commit_given_up", reason=reason, messages=len(records))
        self._said = reason
        if not is_unknown:
            raise unavailable(cause)
        unknown = OutcomeUnknownError(
            "the disk did not answer the commit: the message may be stored or not; "
            "with an idempotency key it is safe to send it again"
        )
        unknown.__cause__ = cause
        return [bare(unknown)] * len(records)

    def _doubt(self, error: BaseException) -> str:
        is_away = isinstance(error, TimeoutError) and not self._file.is_open.is_set()
        reason = self._file.reason if is_away else explain(error, self._file.path)
        self._suspect = max(self._suspect, 1)
        self._outcomes.failed("commit", reason)
        return reason

    def _try(self, opened: Opened) -> None:
        """Take the lock, and write if there is a doubt about the disk."""
        size = self._suspect
        disk = os.statvfs(opened.path.parent)
        if disk.f_bavail * disk.f_frsize < _LEAST_ROOM:
            size = max(size, 1)
        for probe in (bytes(size), None) if size else (None,):
            with transaction(opened, _PROBE_SECONDS):
                if size:
                    opened.writer.execute("UPDATE installation SET probe = ?", (probe,))


def _end(making: asyncio.Future[Commit]) -> None:
    """Wait no longer."""
    if not making.done():
        making.set_exception(_DeadlineError())

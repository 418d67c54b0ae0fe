"""Group commit: what is published while one append is under way goes into the next.

The append under way is the batching window, so that a lone message waits for nothing and a
flood shares its cost. What waits is bounded.

The publishers of a large batch are answered a part at a time. Those that were answered first and
publish again are then on their way to the backend while the others run: else this process and the
backend would take turns at waiting for each other.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import structlog

from app.core.errors import AbideError, OverloadedError, UnavailableError
from app.core.message import Published, Record
from app.core.ports import UNMETERED, Meter, Outcome

MAX_WAITING_MESSAGES = 20_000
MAX_WAITING_BYTES = 32 * 1024 * 1024
"""More than so much in the queue is refused with :class:`~app.core.errors.OverloadedError`."""

MAX_BATCH_MESSAGES = 1000
MAX_BATCH_BYTES = 1024 * 1024
"""An append is closed when it holds so much; one submission is never split."""

_ANSWERED_AT_ONCE = 128
"""Submissions that are answered in one turn of the loop."""

_log = structlog.get_logger(__name__)


class _Submission(NamedTuple):
    records: Sequence[Record]
    size: int
    outcomes: asyncio.Future[list[Outcome]]


class GroupCommit:
    """Feeds ``append`` one batch at a time from a bounded queue."""

    def __init__(
        self, append: Callable[[Sequence[Record]], Awaitable[list[Outcome]]], meter: Meter = UNMETERED
    ) -> None:
        self._append = append
        self._meter = meter
        self._waiting: deque[_Submission] = deque()
        self._messages = 0
        self._bytes = 0
        self._news = asyncio.Event()
        self._closing = False

    def __repr__(self) -> str:
        return f"<GroupCommit {self._messages} messages, {self._bytes} bytes waiting>"

    async def publish(self, records: Sequence[Record]) -> list[Outcome]:
        """Queue the records, in order and in one batch; return when their outcome is known."""
        size = sum(len(record.data) for record in records)
        self._refuse_if_full(len(records), size)
        submission = _Submission(records, size, asyncio.get_running_loop().create_future())
        self._waiting.append(submission)
        self._count(submission, 1)
        self._news.set()
        return await submission.outcomes

    async def run(self) -> None:
        """Append until :meth:`close`, and then what still waits."""
        async with asyncio.TaskGroup() as answering:
            while self._waiting or not self._closing:
                if not self._waiting:
                    self._news.clear()
                    await self._news.wait()
                    continue
                batch = self._take()
                outcomes = await self._commit(batch)
                _answer(batch[:_ANSWERED_AT_ONCE], outcomes)
                if len(batch) > _ANSWERED_AT_ONCE:
                    answering.create_task(_answer_rest(batch[_ANSWERED_AT_ONCE:], outcomes))

    def close(self) -> None:
        """Refuse new records and let :meth:`run` return when the queue is empty."""
        self._closing = True
        self._news.set()

    def _refuse_if_full(self, messages: int, size: int) -> None:
        if self._closing:
            msg = "the server is stopping: publish again in a moment"
            raise UnavailableError(msg)
        full = self._messages + messages > MAX_WAITING_MESSAGES or self._bytes + size > MAX_WAITING_BYTES
        if full and self._waiting:
            msg = f"{self._messages} messages wait for the backend already: publish again in a moment"
            raise OverloadedError(msg)

    def _count(self, submission: _Submission, sign: int) -> None:
        self._messages += sign * len(submission.records)
        self._bytes += sign * submission.size

    def _take(self) -> list[_Submission]:
        taken = [self._waiting.popleft()]
        messages, size = len(taken[0].records), taken[0].size
        while self._waiting:
            messages += len(self._waiting[0].records)
            size += self._waiting[0].size
            if messages > MAX_BATCH_MESSAGES or size > MAX_BATCH_BYTES:
                break
            taken.append(self._waiting.popleft())
        return taken

    async def _commit(self, batch: list[_Submission]) -> Iterator[Outcome]:
        """Append a batch; return the outcomes of its records, in their order."""
        records = [record for submission in batch for record in submission.records]
        outcomes: list[Outcome]
        began = time.perf_counter()
        try:
            outcomes = await self._append(records)
        except AbideError as error:
            outcomes = [error] * len(records)
        except Exception:  # noqa: BLE001 — a bug of a backend fails its batch, not the queue
            _log.exception("append_failed", messages=len(records))
            outcomes = [UnavailableError("the backend failed: the message may be stored or not")] * len(records)
        self._meter.appended(len(records), time.perf_counter() - began)
        self._meter.published(_stored(records, outcomes))
        for submission in batch:
            self._count(submission, -1)
        return iter(outcomes)


def _stored(records: Iterable[Record], outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Return how many of the records were stored just now, by channel."""
    stored: dict[str, int] = {}
    for record, outcome in zip(records, outcomes, strict=True):
        if isinstance(outcome, Published) and not outcome.replayed:
            stored[record.channel] = stored.get(record.channel, 0) + 1
    return stored


def _answer(batch: Iterable[_Submission], outcomes: Iterator[Outcome]) -> None:
    """Tell publishers; takes from ``outcomes`` what is theirs."""
    for submission in batch:
        mine = list(islice(outcomes, len(submission.records)))
        if not submission.outcomes.done():
            submission.outcomes.set_result(mine)


async def _answer_rest(batch: list[_Submission], outcomes: Iterator[Outcome]) -> None:
    for begin in range(0, len(batch), _ANSWERED_AT_ONCE):
        await asyncio.sleep(0)
        _answer(batch[begin : begin + _ANSWERED_AT_ONCE], outcomes)

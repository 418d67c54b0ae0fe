"""Group commit: what is published while one append is under way goes into the next one.

The append under way is the batching window. So a lone message waits for nothing, and a flood shares the cost of each
append. The queue is bounded.

The publishers of a large batch are answered a part at a time. The first ones can publish again, and the backend
can work on that, while the others are answered. Otherwise this process and the backend would take turns at waiting.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import structlog

from app.core.errors import AbideError, OverloadedError, UnavailableError, bare
from app.core.message import Published, Record
from app.core.ports import UNMETERED, Meter, Outcome

MAX_WAITING_MESSAGES = 20_000
MAX_WAITING_BYTES = 32 * 1024 * 1024
"""The bounds of the queue. More is refused with :class:`~app.core.errors.OverloadedError`."""

MAX_BATCH_MESSAGES = 1000
MAX_BATCH_BYTES = 1024 * 1024
"""The bounds of one append. A submission is never split, so a large one alone may exceed them."""

PATIENCE_SECONDS = 5.0
"""A submission that is not stored this long after its arrival is refused."""

_LEAST_SECONDS = 0.8
"""The least time that an append gets, even if its first submission has waited for longer."""

_EXPIRY_SECONDS = 0.1
"""The pause between two looks for submissions that have waited too long. All are answered within six seconds."""

_ANSWERED_AT_ONCE = 128
"""How many submissions are answered in one turn of the loop."""

_NOT_TAKEN = "not stored: earlier messages still wait for the backend: try again in a moment"

_log = structlog.get_logger(__name__)


class Submission:
    """Records that are stored together, and then what became of each of them. It waits like a future.

    A future of asyncio would call back one turn of the event loop later, which costs a push a tenth of its time. So the
    callbacks of a whole batch run one after the other, as soon as the batch is stored.
    """

    __slots__ = ("_callbacks", "_outcomes", "came", "records", "size")

    def __init__(self, records: Sequence[Record], size: int, came: float) -> None:
        self.records = records
        self.size = size
        """Bytes of all the records."""
        self.came = came
        """When they came, by :func:`time.monotonic`."""
        self._outcomes: list[Outcome] | None = None
        self._callbacks: tuple[Callable[[Any], object], ...] = ()

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call ``callback`` with this when the outcomes are known, and never within this call."""
        if self._outcomes is None:
            self._callbacks += (callback,)
        else:
            asyncio.get_running_loop().call_soon(callback, self)

    def result(self) -> list[Outcome]:
        """Return one outcome for each record. Raises :class:`asyncio.InvalidStateError` before they are known."""
        if self._outcomes is None:
            raise asyncio.InvalidStateError
        return self._outcomes

    def settle(self, outcomes: list[Outcome]) -> None:
        """Note the outcomes, and tell whoever waits for them. Never raises: a bug in a callback is logged."""
        self._outcomes = outcomes
        callbacks, self._callbacks = self._callbacks, ()
        for callback in callbacks:
            try:
                callback(self)
            except Exception as error:  # noqa: BLE001 — the next ones are to be told, too
                context = {"message": "exception in a callback of a submission", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)

    def __await__(self) -> Generator[Any, None, list[Outcome]]:
        """Wait for the outcomes."""
        if self._outcomes is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.add_done_callback(partial(_wake, waiter))
            yield from waiter
        return self.result()


Append = Callable[[Sequence[Record], float], Awaitable[list[Outcome]]]
"""Stores records as one batch by a time of :func:`time.monotonic`; see :meth:`app.bus.backend.Backend.append`."""


class GroupCommit:
    """Feeds ``append`` one batch at a time from a bounded queue.

    ``answers_first`` is as in :class:`~app.bus.backend.Backend`.
    """

    def __init__(self, append: Append, meter: Meter = UNMETERED, *, answers_first: bool = False) -> None:
        self._append = append
        self._answers_first = answers_first
        self._meter = meter
        self._waiting: deque[Submission] = deque()
        self._messages = 0
        self._bytes = 0
        self._news: asyncio.Future[None] | None = None
        """The future that :meth:`run` awaits; None while it works."""
        self._closing = False

    def __repr__(self) -> str:
        return f"<GroupCommit {self._messages} messages, {self._bytes} bytes waiting>"

    def publish(self, records: Sequence[Record]) -> Submission:
        """Queue the records, in order and in one batch; their outcomes are known within six seconds.

        Raises :class:`OverloadedError` and :class:`UnavailableError` at once. This is no coroutine, because a task
        for each message would double its cost.
        """
        added = len(records[0].data) if len(records) == 1 else sum([len(record.data) for record in records])
        messages, size = self._messages + len(records), self._bytes + added
        waiting = self._waiting
        if self._closing or (waiting and (messages > MAX_WAITING_MESSAGES or size > MAX_WAITING_BYTES)):
            raise self._refusal()
        if not waiting:
            self._wake()
        submission = Submission(records, added, time.monotonic())
        waiting.append(submission)
        self._messages, self._bytes = messages, size
        return submission

    async def run(self) -> None:
        """Append until :meth:`close`, and then what still waits."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as answering:
            expiring = answering.create_task(self._expire())
            while self._waiting or not self._closing:
                if not self._waiting:
                    self._news = loop.create_future()
                    await self._news
                    continue
                batch = self._take()
                outcomes = await self._commit(batch)
                first, rest = batch[:_ANSWERED_AT_ONCE], batch[_ANSWERED_AT_ONCE:]
                begins_first = bool(self._waiting) and not self._answers_first
                if begins_first:  # the backend works on that while these are answered
                    loop.call_soon(_answer, first, outcomes)
                else:
                    _answer(first, outcomes)
                if rest:
                    answering.create_task(_answer_rest(rest, outcomes))
                del batch, first, rest, outcomes  # or they would stay in memory until something is published again
                if self._waiting and not begins_first:  # some were answered and have sent again: others get their turn
                    await asyncio.sleep(0)
            expiring.cancel()

    def close(self) -> None:
        """Refuse new records and let :meth:`run` return when the queue is empty."""
        self._closing = True
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, None
        if news is not None:
            _wake(news)

    def _refusal(self) -> AbideError:
        if self._closing:
            return UnavailableError("the server is stopping: publish again in a moment")
        return OverloadedError(f"{self._messages} messages already wait for the backend: publish again in a moment")

    def _take(self) -> list[Submission]:
        waiting = self._waiting
        if self._messages <= MAX_BATCH_MESSAGES and self._bytes <= MAX_BATCH_BYTES:  # all that waits
            taken = list(waiting)
            waiting.clear()
            return taken
        taken = [waiting.popleft()]
        messages, size = len(taken[0].records), taken[0].size
        while waiting:
            messages += len(waiting[0].records)
            size += waiting[0].size
            if messages > MAX_BATCH_MESSAGES or size > MAX_BATCH_BYTES:
                break
            taken.append(waiting.popleft())
        return taken

    async def _expire(self) -> None:
        """Refuse what has waited too long behind the append under way; never returns."""
        waiting = self._waiting
        while True:
            await asyncio.sleep(_EXPIRY_SECONDS)
            too_old = time.monotonic() - PATIENCE_SECONDS
            while waiting and waiting[0].came < too_old:
                submission = waiting.popleft()
                self._messages -= len(submission.records)
                self._bytes -= submission.size
                submission.settle([UnavailableError(_NOT_TAKEN)] * len(submission.records))

    async def _commit(self, batch: list[Submission]) -> Iterator[Outcome]:
        """Append a batch; return the outcomes of its records, in their order."""
        records = [record for submission in batch for record in submission.records]
        outcomes: list[Outcome]
        began = time.perf_counter()
        try:
            deadline = max(batch[0].came + PATIENCE_SECONDS, time.monotonic() + _LEAST_SECONDS)
            outcomes = await self._append(records, deadline)
            self._meter.appended(len(records), time.perf_counter() - began)
            self._meter.published(_stored(records, outcomes))
        except AbideError as error:
            self._meter.appended(len(records), time.perf_counter() - began)
            outcomes = [bare(error)] * len(records)
        except Exception:  # noqa: BLE001 — a bug in a backend fails its batch, not the queue
            _log.exception("append_failed", messages=len(records))
            outcomes = [UnavailableError("the backend failed: the message may be stored or not")] * len(records)
        self._messages -= len(records)
        self._bytes -= sum([submission.size for submission in batch])
        return iter(outcomes)


def _wake(waiter: asyncio.Future[None], _: object = None) -> None:
    if not waiter.done():  # whoever waits may have been cancelled
        waiter.set_result(None)


def _stored(records: Sequence[Record], outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Return how many of the records were stored just now, by channel."""
    counts: dict[str, int] = {}
    for record, outcome in zip(records, outcomes, strict=True):
        if type(outcome) is Published and not outcome.replayed:
            counts[record.channel] = counts.get(record.channel, 0) + 1
    return counts


def _answer(batch: Iterable[Submission], outcomes: Iterator[Outcome]) -> None:
    """Answer publishers, each with the next of the ``outcomes``."""
    for submission in batch:
        count = len(submission.records)
        submission.settle([next(outcomes)] if count == 1 else list(islice(outcomes, count)))


async def _answer_rest(batch: list[Submission], outcomes: Iterator[Outcome]) -> None:
    for begin in range(0, len(batch), _ANSWERED_AT_ONCE):
        await asyncio.sleep(0)
        _answer(batch[begin : begin + _ANSWERED_AT_ONCE], outcomes)

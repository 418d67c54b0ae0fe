"""Publisher and receivers, each in its own process, and their handles in the benchmark's process.

A handle asks its process to run a method of :class:`Worker`; one request at a time, each answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, MutableMapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import structlog
import uvloop

from app.server import garbage
from benchmarks.support import sides
from benchmarks.support.messages import CHANNELS, Ledger, Receipt, compose
from benchmarks.support.waiting import until

P = ParamSpec("P")
T = TypeVar("T")

PUBLISHERS = 256
"""Concurrent publishers of a flood."""

MAX_UNANSWERED = 10_000
"""The most unanswered publishes at a steady rate; refusing more would take time from publishing."""

ANSWER_SECONDS = 180.0
"""The longest that a process may take for one request."""

_COMPLETE_POLL_SECONDS = 0.005
_COMPLETE_SECONDS = 60.0
_END_SECONDS = 15.0


class ProcessError(RuntimeError):
    """A process failed, or did not answer in time."""


@dataclass(slots=True)
class Flow:
    """A publisher's account: the messages of each channel, and why some were refused."""

    published: dict[str, int] = field(default_factory=dict)
    began: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)


class Journal(logging.Handler):
    """Counts the log lines of structlog and logging by ``level event``, and keeps the first text of each."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.entries: dict[str, tuple[int, str]] = {}

    def __call__(self, _: object, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Take an event as the last of structlog's processors."""
        if level not in ("debug", "info"):
            rest = ", ".join(f"{name}={value}" for name, value in event.items() if name != "event")
            self._enter(f"{level} {event['event']}", rest)
        raise structlog.DropEvent

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record of the standard library's logging."""
        self._enter(f"{record.levelname.lower()} {record.getMessage().splitlines()[0]}", self.format(record))

    def install(self) -> None:
        """Replace all other log handlers."""
        structlog.configure(processors=[structlog.processors.format_exc_info, self])
        logging.basicConfig(handlers=[self], force=True)

    def _enter(self, what: str, text: str) -> None:
        count, first = self.entries.get(what, (0, text))
        self.entries[what] = (count + 1, first)


class Worker:
    """The work in the process: one connected side, which publishes or follows."""

    def __init__(self, side: sides.Side, journal: Journal) -> None:
        self._side = side
        self._journal = journal
        self._ledger = Ledger(recording=False)
        self._flow = Flow()
        self._stop = asyncio.Event()
        self._pacing: asyncio.Task[None] | None = None
        self._unanswered = 0

    async def follow(self, *, recording: bool) -> None:
        """Begin to receive all channels, with a new ledger."""
        self._ledger = Ledger(recording)
        for channel in CHANNELS:
            await self._side.follow(channel, self._ledger)

    async def received(self, published: Mapping[str, int], patience: float = _COMPLETE_SECONDS) -> Receipt:
        """Wait until all published messages are there, or until the time is up, and account for them."""

        async def is_complete() -> bool:
            return self._ledger.has(published)

        await until(is_complete, seconds=patience, every=_COMPLETE_POLL_SECONDS)
        return self._ledger.receipt(published)

    async def flood(self, size: int, seconds: float) -> Flow:
        """Publish as fast as :data:`PUBLISHERS` can that each wait for their publish before the next."""
        self._flow = Flow(began=time.monotonic())
        deadline = self._flow.began + seconds

        async def publish(channel: str) -> None:
            while time.monotonic() < deadline:
                await self._side.publish(channel, self._next(channel, size))

        async with asyncio.TaskGroup() as group:
            for number in range(PUBLISHERS):
                group.create_task(publish(CHANNELS[number % len(CHANNELS)]))
        return self._flow

    async def pace(self, rate: float, size: int, seconds: float) -> Flow:
        """Publish at this rate, in messages per second, without waiting for answers."""
        await self.begin(rate, size, keyed=False)
        await asyncio.sleep(seconds)
        return await self.end()

    async def begin(self, rate: float, size: int, *, keyed: bool) -> None:
        """Publish as :meth:`pace` does until :meth:`end`; ``keyed``: with idempotency keys."""
        self._flow = Flow(began=time.monotonic())
        self._stop.clear()
        self._pacing = asyncio.create_task(self._pace(rate, size, keyed=keyed))

    async def end(self) -> Flow:
        """Stop publishing; return when every publish is answered."""
        self._stop.set()
        if self._pacing is not None:
            await self._pacing
        return self._flow

    async def publish_at_once(self, count: int, size: int) -> Counter[str]:
        """Publish some messages at the same time and return why some failed."""
        self._flow = Flow()
        await asyncio.gather(*(self._attempt(CHANNELS[0], size, keyed=False) for _ in range(count)))
        return self._flow.errors

    async def logged(self) -> dict[str, tuple[int, str]]:
        """Return the logged events: how often, and the first text of each."""
        return self._journal.entries

    async def _pace(self, rate: float, size: int, *, keyed: bool) -> None:
        began, sent = time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            while not self._stop.is_set():
                due = min(int((time.monotonic() - began) * rate), sent + MAX_UNANSWERED - self._unanswered)
                for number in range(sent, due):
                    group.create_task(self._attempt(CHANNELS[number % len(CHANNELS)], size, keyed=keyed))
                sent = max(sent, due)
                await asyncio.sleep(max(0.0, began + (sent + 1) / rate - time.monotonic()))

    async def _attempt(self, channel: str, size: int, *, keyed: bool) -> None:
        self._unanswered += 1
        data = self._next(channel, size)
        key = f"k{self._flow.published[channel]}" if keyed else None
        try:
            await self._side.publish(channel, data, key)
        except Exception as error:  # noqa: BLE001 — the benchmark tells of whatever it was
            self._flow.errors[f"{type(error).__name__}: {error}".splitlines()[0]] += 1
        finally:
            self._unanswered -= 1

    def _next(self, channel: str, size: int) -> str:
        number = self._flow.published.get(channel, 0) + 1
        self._flow.published[channel] = number
        return compose(number, size)


class Process:
    """The handle of a process that runs a :class:`Worker`."""

    def __init__(self, side: sides.Name, url: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(theirs, side, url), daemon=True)
        self._process.start()
        theirs.close()

    async def __aenter__(self) -> Self:
        """Wait until it is connected."""
        try:
            await asyncio.to_thread(self._answer, "connecting")
        except BaseException:
            await asyncio.to_thread(self._end)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._end)

    async def ask(
        self, method: Callable[Concatenate[Worker, P], Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a method of the worker there and return what it returns. Raises :class:`ProcessError`."""
        self._connection.send((method, args, kwargs))
        answer: T = await asyncio.to_thread(self._answer, method.__name__)
        return answer

    def _answer(self, what: str) -> Any:  # noqa: ANN401 — ask() knows the type
        try:
            if not self._connection.poll(ANSWER_SECONDS):
                msg = f"no answer to {what!r} within {ANSWER_SECONDS:.0f} s"
                raise ProcessError(msg)
            failed, answer = self._connection.recv()
        except EOFError:
            msg = f"the process ended instead of answering {what!r}"
            raise ProcessError(msg) from None
        if failed:
            msg = f"{what!r} failed:\n{answer}"
            raise ProcessError(msg)
        return answer

    def _end(self) -> None:
        self._connection.close()
        self._process.join(_END_SECONDS)
        self._process.kill()
        self._process.join()


def _main(connection: Connection, side: sides.Name, url: str) -> None:
    journal = Journal()
    journal.install()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, contextlib.suppress(EOFError, OSError):
        try:
            runner.run(_serve(connection, side, url, journal))
        except Exception:  # noqa: BLE001 — it crosses to the benchmark's process as text
            connection.send((True, traceback.format_exc()))


async def _serve(connection: Connection, side: sides.Name, url: str, journal: Journal) -> None:
    async with sides.connect(side, url) as connected:
        worker = Worker(connected, journal)
        garbage.settle()  # as a worker does; for both sides
        connection.send((False, None))
        async for method, args, kwargs in _requests(connection):
            try:
                connection.send((False, await method(worker, *args, **kwargs)))
            except Exception:  # noqa: BLE001 — as above
                connection.send((True, traceback.format_exc()))


async def _requests(connection: Connection) -> AsyncIterator[Any]:
    while True:
        try:
            yield await asyncio.to_thread(connection.recv)
        except EOFError:
            return

"""Reads that are asked for one by one, and done together: what comes while one is under way goes into the next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from itertools import islice
from typing import Generic, TypeVar

from app.bus.backend import PATIENCE_SECONDS
from app.core.errors import UnavailableError, bare

_LATE_SECONDS = 0.1
"""How late a refusal may be: thousands that wait are looked through once in that time."""

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class _Asked(Generic[T]):
    """What is asked for, and since when."""

    __slots__ = ("answer", "since")

    def __init__(self) -> None:
        self.answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.since = time.monotonic()

    def refuse(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # whoever asked may be gone


class Together(Generic[K, T]):
    """Calls ``read`` with at most ``most`` different things at a time; it returns an answer to each, in their order.

    Nothing is answered by a read that had begun before it was asked for. Once a read has found that the log is away,
    everything is refused that has waited for :data:`PATIENCE_SECONDS`, until another read works: or what came while one
    was under way would wait for twice as long. ``refusal`` is what clients are told when it is closed.
    """

    def __init__(self, read: Callable[[Sequence[K]], Awaitable[Sequence[T]]], most: int, refusal: str) -> None:
        self._read = read
        self._most = most
        self._refusal = refusal
        self._asked: dict[K, _Asked[T]] = {}
        """What is still to be read."""
        self._reading: dict[K, _Asked[T]] = {}
        self._task: asyncio.Task[None] | None = None
        self._away: UnavailableError | None = None
        """Why the last read found that the log is away; None if it did not."""
        self._late: asyncio.TimerHandle | None = None
        """Refuses what has waited too long, while the log is away and something waits."""

    async def ask(self, what: K) -> T:
        """Return the answer. Raises what ``read`` raises, which all get that were read for with it."""
        asked = self._asked.get(what)
        if asked is None:
            asked = self._asked[what] = _Asked()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="read-together")
        # A caller may be cancelled; the read goes on for the others.
        return await asyncio.shield(asked.answer)

    def close(self) -> None:
        """End the read that is under way, and refuse what waits."""
        if self._task is not None:
            self._task.cancel()
        self._end()

    async def _run(self) -> None:
        try:
            while self._asked:
                self._reading = {what: self._asked.pop(what) for what in list(islice(self._asked, self._most))}
                await self._read_some(self._reading)
        finally:
            self._task = None
            self._end()

    async def _read_some(self, some: dict[K, _Asked[T]]) -> None:
        try:
            answers = await self._read(list(some))
        except UnavailableError as error:
            self._away = bare(error)
            _refuse(some.values(), self._away)
            self._refuse_late()
        except Exception as error:  # noqa: BLE001 — it is for whoever asked
            _refuse(some.values(), error)
        else:
            self._away = None
            for asked, answer in zip(some.values(), answers, strict=True):
                if not asked.answer.done():
                    asked.answer.set_result(answer)

    def _refuse_late(self) -> None:
        """Refuse what has waited for as long as a read waits for a log that is away, and again when more has."""
        if self._late is not None:
            self._late.cancel()
            self._late = None
        if self._away is None:
            return
        now, waiting = time.monotonic(), [*self._reading.values(), *self._asked.values()]
        _refuse([asked for asked in waiting if asked.since + PATIENCE_SECONDS <= now], self._away)
        self._asked = {what: asked for what, asked in self._asked.items() if not asked.answer.done()}
        if left := [asked.since for asked in waiting if not asked.answer.done()]:
            due = max(min(left) + PATIENCE_SECONDS - now, _LATE_SECONDS)
            self._late = asyncio.get_running_loop().call_later(due, self._refuse_late)

    def _end(self) -> None:
        """Refuse everything that has no answer."""
        left = [*self._reading.values(), *self._asked.values()]
        self._reading, self._asked = {}, {}
        if self._late is not None:
            self._late.cancel()
        _refuse(left, UnavailableError(self._refusal))


def _refuse(some: Iterable[_Asked[T]], error: Exception) -> None:
    for asked in some:
        asked.refuse(error)

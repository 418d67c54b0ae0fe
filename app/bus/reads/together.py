"""Reads that are asked for one by one, and done together: what comes while one is under way goes into the next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from itertools import islice
from typing import Generic, TypeVar

from app.bus.backend import PATIENCE_SECONDS
from app.core.errors import UnavailableError, bare

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

    Nothing is answered by a read that had begun before it was asked for. Where a read finds that the log is away, it
    also refuses what has waited for :data:`PATIENCE_SECONDS` meanwhile, or the last ones would wait many times as long.
    ``refusal`` is what clients are told when it is closed.
    """

    def __init__(self, read: Callable[[Sequence[K]], Awaitable[Sequence[T]]], most: int, refusal: str) -> None:
        self._read = read
        self._most = most
        self._refusal = refusal
        self._asked: dict[K, _Asked[T]] = {}
        """What is still to be read."""
        self._reading: dict[K, _Asked[T]] = {}
        self._task: asyncio.Task[None] | None = None

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
            _refuse([*some.values(), *self._impatient()], bare(error))
        except Exception as error:  # noqa: BLE001 — it is for whoever asked
            _refuse(some.values(), error)
        else:
            for asked, answer in zip(some.values(), answers, strict=True):
                if not asked.answer.done():
                    asked.answer.set_result(answer)

    def _impatient(self) -> list[_Asked[T]]:
        """Take out what has waited for as long as a read waits for a log that is away."""
        began = time.monotonic() - PATIENCE_SECONDS
        return [self._asked.pop(what) for what, asked in list(self._asked.items()) if asked.since <= began]

    def _end(self) -> None:
        """Refuse everything that has no answer."""
        left = [*self._reading.values(), *self._asked.values()]
        self._reading, self._asked = {}, {}
        _refuse(left, UnavailableError(self._refusal))


def _refuse(some: Iterable[_Asked[T]], error: Exception) -> None:
    for asked in some:
        asked.refuse(error)

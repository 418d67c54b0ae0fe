"""Reads that are asked for one by one, and done together: what comes while one is under way goes into the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from itertools import islice
from typing import Generic, TypeVar

from app.bus.postgres.sessions.refusals import NOT_READY
from app.core.errors import UnavailableError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Together(Generic[K, T]):
    """Calls ``read`` with at most ``most`` different things at a time; it returns an answer to each, in their order.

    Nothing is answered by a read that had begun before it was asked for.
    """

    def __init__(self, read: Callable[[Sequence[K]], Awaitable[Sequence[T]]], most: int) -> None:
        self._read = read
        self._most = most
        self._asked: dict[K, asyncio.Future[T]] = {}
        self._task: asyncio.Task[None] | None = None

    async def ask(self, what: K) -> T:
        """Return the answer. Raises what ``read`` raises, which all get that were read for with it."""
        asked = self._asked.get(what)
        if asked is None:
            asked = self._asked[what] = asyncio.get_running_loop().create_future()
            asked.add_done_callback(_retrieve)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="read-together")
        # A caller may be cancelled; the read goes on for the others.
        return await asyncio.shield(asked)

    def close(self) -> None:
        """End the read that is under way."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            while self._asked:
                some = [(what, self._asked.pop(what)) for what in list(islice(self._asked, self._most))]
                try:
                    answers = await self._read([what for what, _ in some])
                except BaseException as error:
                    for _, asked in some:
                        asked.set_exception(error if isinstance(error, Exception) else UnavailableError(NOT_READY))
                    if not isinstance(error, Exception):
                        raise
                else:
                    for (_, asked), answer in zip(some, answers, strict=True):
                        asked.set_result(answer)
        finally:
            self._task = None


def _retrieve(asked: asyncio.Future[T]) -> None:
    """Retrieve the error of a read that nobody may be waiting for any more."""
    if not asked.cancelled():
        asked.exception()

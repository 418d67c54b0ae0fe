"""What many ask for at the same time goes into one round trip: what is asked meanwhile goes into the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Generic, TypeVar

from app.core.errors import UnavailableError, bare

_T = TypeVar("_T")


class Together(Generic[_T]):
    """Asks ``ask`` for at most ``most`` names at once; it returns an answer for each, or raises UnavailableError."""

    def __init__(self, ask: Callable[[Sequence[str]], Awaitable[Sequence[_T]]], most: int) -> None:
        self._ask = ask
        self._most = most
        self._waiting: dict[str, asyncio.Future[_T]] = {}
        """By the names that are still to be asked for."""
        self._task: asyncio.Task[None] | None = None

    async def get(self, name: str) -> _T:
        """Return the answer for a name, asked for after this call. Raises :class:`UnavailableError`."""
        if name not in self._waiting:
            self._waiting[name] = asyncio.get_running_loop().create_future()
        answer = self._waiting[name]
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await asyncio.shield(answer)

    async def _run(self) -> None:
        while self._waiting:
            answers = {name: self._waiting.pop(name) for name in list(islice(self._waiting, self._most))}
            try:
                found = await self._ask(list(answers))
            except UnavailableError as error:
                for answer in answers.values():
                    answer.set_exception(bare(error))
                    answer.exception()  # whoever asked may be gone
            else:
                for answer, one in zip(answers.values(), found, strict=True):
                    answer.set_result(one)
        self._task = None

"""A thread of the event loop's that runs one function after the other.

An executor would do, but each of its jobs costs two futures and their locks, and each commit is a job.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

_Result = TypeVar("_Result")
_Job = tuple[asyncio.AbstractEventLoop, asyncio.Future[Any], Callable[[], Any], Callable[[Any], object] | None]


class Thread:
    """Begins with its first job. It keeps no process from ending."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._is_begun = False
        self._is_over = False

    def run(
        self, function: Callable[[], _Result], late: Callable[[_Result], object] | None = None
    ) -> asyncio.Future[_Result]:
        """Run the function after those before it; the future has what it returns or raises.

        It runs even if the future is done before; ``late`` is then called with what it returns, on the event loop.
        Raises RuntimeError after :meth:`end`.
        """
        if self._is_over:
            msg = f"the thread {self._name} has ended"
            raise RuntimeError(msg)
        if not self._is_begun:
            self._is_begun = True
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Result] = loop.create_future()
        self._jobs.put((loop, future, function, late))
        return future

    def end(self) -> None:
        """End after the jobs before; there are none after it."""
        self._is_over = True
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            loop, future, function, late = job
            result: object = None
            error: BaseException | None = None
            try:
                result = function()
            except BaseException as raised:  # noqa: BLE001 — it is for whoever waits
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
                loop.call_soon_threadsafe(_settle, future, result, error, late)
            del job, loop, future, function, late, result, error  # or they would stay in memory until the next job


def _settle(
    future: asyncio.Future[Any], result: object, error: BaseException | None, late: Callable[[Any], object] | None
) -> None:
    if not future.done() and error is not None:
        future.set_exception(error)
        future.exception()  # nobody may wait for it any more
    elif not future.done():
        future.set_result(result)
    elif late is not None and error is None:
        late(result)

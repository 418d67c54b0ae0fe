"""The same two functions without ``await``, for scripts, threads and frameworks that are not asynchronous.

A thread runs the asynchronous client for as long as a call or an iteration lasts. What the caller passes in, such as
``token`` and ``on_gap``, is called in that thread.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from . import publishing, subscribing

P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["publish", "subscribe"]


class _Loop:
    """An event loop in a thread; leaving the context cancels what still runs in it, and closes a generator."""

    def __init__(self, generator: AsyncGenerator[Any, None] | None = None) -> None:
        self._generator = generator

    def __enter__(self) -> Self:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),), name="abide_client", daemon=True)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._left.set)
        self._thread.join()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returns; Ctrl-C interrupts the waiting."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _serve(self) -> None:
        self._loop, self._left = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        await self._left.wait()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._generator is not None:  # asyncio.run would close it too late for what its connection still has to do
            await self._generator.aclose()


def _waiting(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with _Loop() as loop:
            return loop.run(function(*args, **kwargs))

    return call


def _iterating(function: Callable[P, AsyncGenerator[T, None]]) -> Callable[P, Generator[T, None, None]]:
    @functools.wraps(function)
    def iterate(*args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        async def following() -> T:
            return await anext(messages)

        messages = function(*args, **kwargs)
        with _Loop(messages) as loop:
            while True:
                yield loop.run(following())

    return iterate


publish = _waiting(publishing.publish)
subscribe = _iterating(subscribing.subscribe)

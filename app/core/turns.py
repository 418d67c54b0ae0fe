"""Long computations take turns: each turn of the event loop runs one step of one of them.

However many computations are under way, everything else on the loop waits for one step at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from weakref import WeakKeyDictionary

STEP_SECONDS = 0.002
"""How long a step takes; it finishes what it has begun by then."""

T = TypeVar("T")
Steps = Generator[None, None, T]
"""A computation that yields where others may run, and returns its result."""


class Pace:
    """Tells a computation when its step has taken long enough."""

    __slots__ = ("_due",)

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin a step."""
        self._due = time.perf_counter() + STEP_SECONDS

    def is_over(self) -> bool:
        """Whether the step has taken long enough."""
        return time.perf_counter() > self._due

    def pause(self) -> Steps[None]:
        """Let others run if the step is over."""
        if self.is_over():
            yield
            self.begin()


class _Queue:
    """The computations that wait for a turn of one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    def join(self) -> asyncio.Future[None]:
        """Return a future that is done when the turn has come."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            loop.call_soon(self._call)
        return turn

    def _call(self) -> None:
        """Give the next one its turn, unless it was cancelled."""
        turn = self._waiting.popleft()
        if not turn.done():
            turn.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._call)


_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, _Queue] = WeakKeyDictionary()


async def turn() -> None:
    """Wait for a turn of the loop that no other waiting computation shares."""
    await _queues.setdefault(asyncio.get_running_loop(), _Queue()).join()


async def run(steps: Steps[T]) -> T:
    """Run a computation, each step in a turn of its own; return its result."""
    while True:
        await turn()
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result


_thread = ThreadPoolExecutor(1, "computation")
"""One thread: several would fight with the event loop for the interpreter."""


async def in_thread(compute: Callable[[], T]) -> T:
    """Return the result of a computation that cannot be divided into steps. They run one after the other."""
    return await asyncio.get_running_loop().run_in_executor(_thread, compute)


async def each(items: Iterable[T], handle: Callable[[T], object]) -> None:
    """Handle items one by one, in as many turns as it takes."""
    await run(_each(items, handle))


def _each(items: Iterable[T], handle: Callable[[T], object]) -> Steps[None]:
    pace = Pace()
    for item in items:
        handle(item)
        yield from pace.pause()

"""Work that waits for a turn of the event loop that has room for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from app.server.backlog import Backlog


def takes(seconds: float, done: list[float]) -> Callable[[], None]:
    """Return work that takes so long, and notes when it is done."""

    def work() -> None:
        time.sleep(seconds)
        done.append(time.perf_counter())

    return work


async def test_a_turn_ends_when_its_time_is_used_up() -> None:
    """Backlog does in one turn what fits into it, in order, and gives others their turn before it goes on."""
    backlog = Backlog(asyncio.get_running_loop())
    done: list[float] = []
    seen: list[int] = []
    for _ in range(10):
        backlog.join(takes(Backlog.turn_seconds * 0.6, done))
    while len(done) < 10:
        await asyncio.sleep(0)
        seen.append(len(done))
    assert seen[:5] == [2, 4, 6, 8, 10]


async def test_work_that_fails_keeps_nobody_from_theirs() -> None:
    """Backlog goes on after an error, which the loop is told of."""
    loop = asyncio.get_running_loop()
    failures: list[object] = []
    loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
    backlog = Backlog(loop)
    done = asyncio.Event()
    backlog.join(lambda: 1 // 0)
    backlog.join(done.set)
    await done.wait()
    assert isinstance(failures[0], ZeroDivisionError)

"""Work that waits for a turn of the event loop that has room for it."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from app.server.lasting import backlog as backlog_module
from app.server.lasting.backlog import Backlog


class Clock:
    """A clock that only work moves: how long a real one takes is the machine's matter."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        """Tell the time, in seconds."""
        return self.now


async def test_a_turn_ends_when_its_time_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backlog does in one turn what fits into it, in order, and gives others their turn before it goes on."""
    clock = Clock()
    monkeypatch.setattr(backlog_module, "time", clock)
    backlog = Backlog(asyncio.get_running_loop())
    done: list[int] = []
    seen: list[int] = []

    def work(number: int) -> None:
        clock.now += Backlog.turn_seconds * 0.6
        done.append(number)

    for number in range(10):
        backlog.join(partial(work, number))
    while len(done) < 10:
        await asyncio.sleep(0)
        seen.append(len(done))
    assert seen == [2, 4, 6, 8, 10]
    assert done == list(range(10))


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

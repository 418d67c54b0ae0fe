"""The thread that writes: each job once and in order, whoever waits for it."""

import asyncio
import threading
from functools import partial

import pytest

from app.bus.sqlite.file.thread import Thread
from tests.support.readers import until


async def test_a_job_that_nobody_waits_for_any_more_tells_what_it_returned() -> None:
    """Thread runs a job whose future is done before, hands its result to ``late``, and goes on with the next."""
    thread, may_end = Thread("test"), threading.Event()
    heard: list[object] = []
    first = thread.run(may_end.wait, heard.append)
    first.cancel()
    second = thread.run(may_end.is_set)
    may_end.set()
    assert await second
    await until(lambda: heard == [True], "the first job's result came late")
    thread.end()


async def test_a_job_that_fails_raises_in_its_future() -> None:
    """Future of a job raises what the job raised, and the thread goes on."""
    thread = Thread("test")
    with pytest.raises(ZeroDivisionError):
        await thread.run(lambda: 1 // 0)
    assert await asyncio.gather(*(thread.run(partial(abs, number)) for number in range(3))) == [0, 1, 2]
    thread.end()

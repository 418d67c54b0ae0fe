"""What ends a test that hangs, so that it fails with stacks and the suite goes on: a plugin of pytest's.

pytest-timeout raises in the main thread. In an asynchronous test this unwinds the event loop, but not the test, and the
teardown of asynchronous fixtures then waits for the test without end. And what has failed has no timeout any more. So:

- an asynchronous test is cancelled from inside its event loop instead;
- a process ends that is still at a test long after its timeout, or long after it failed. xdist reports the test as
  failed, and starts another process for the others.
"""

from __future__ import annotations

import asyncio
import faulthandler
import functools
import inspect
import os
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol

import pytest

GRACE = 60.0
"""Seconds that a process has to come to an end with a test after its timeout or failure."""

AsyncTest = Callable[..., Coroutine[Any, Any, None]]


class Settings(Protocol):
    """What is used of pytest-timeout's."""

    @property
    def timeout(self) -> float:
        """Seconds for a test with its fixtures."""


_stderr = pytest.StashKey[int]()
_end = pytest.StashKey[float]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the stderr that is not captured."""
    config.stash[_stderr] = os.dup(2)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close it."""
    os.close(config.stash[_stderr])


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Settings) -> bool | None:
    """Note when the test has to end; leave one that is not asynchronous to pytest-timeout."""
    item.stash[_end] = time.monotonic() + settings.timeout
    _end_process_after(item, settings.timeout + GRACE)
    return True if _is_async(item) else None


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """Bound the teardown of what failed, which pytest-timeout does no longer."""
    if isinstance(node, pytest.Item) and _end in node.stash:
        _end_process_after(node, GRACE)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """Let the process live once the test has ended."""
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Bound an asynchronous test."""
    if _end in pyfuncitem.stash and _is_async(pyfuncitem):
        pyfuncitem.obj = _bounded(pyfuncitem.obj, pyfuncitem.stash[_end])
    return (yield)


def _is_async(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj)


def _end_process_after(item: pytest.Item, seconds: float) -> None:
    faulthandler.dump_traceback_later(seconds, exit=True, file=item.config.stash[_stderr])


def _bounded(test: AsyncTest, end: float) -> AsyncTest:
    """Return a test that is cancelled, and fails with the stacks of all tasks, when ``time.monotonic()`` is ``end``."""

    @functools.wraps(test)
    async def bounded(**arguments: object) -> None:
        loop = asyncio.get_running_loop()

        def give_up() -> None:
            _print_stacks(asyncio.all_tasks(loop))
            bound.reschedule(loop.time())

        giving_up = loop.call_later(max(0, end - time.monotonic()), give_up)
        try:
            async with asyncio.timeout(None) as bound:
                await test(**arguments)
        except TimeoutError as error:
            if not bound.expired():
                raise
            msg = "the test hung and was cancelled; stderr has the stacks of all tasks"
            raise AssertionError(msg) from error
        finally:
            giving_up.cancel()

    return bounded


def _print_stacks(tasks: set[asyncio.Task[Any]]) -> None:
    """Print where each task waits, the innermost call last: ``Task.print_stack`` has the outermost alone."""
    for task in tasks:
        sys.stderr.write(f"{task.get_name()} waits in\n")
        waiting: Any = task.get_coro()
        while (frame := getattr(waiting, "cr_frame", None)) is not None:
            sys.stderr.writelines(traceback.format_list(traceback.extract_stack(frame, limit=1)))
            waiting = waiting.cr_await

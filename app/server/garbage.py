"""How a worker collects garbage, and returns memory to the system."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
from collections.abc import Callable

THRESHOLD = (50_000, 20, 100)
"""New objects before a collection of the youngest generation, and collections before one of the next generations."""

LOOK_SECONDS = 1.0
"""Seconds between two looks at how much memory is in use."""

AGAIN_SECONDS = 10.0
"""Seconds after which memory is returned once more: by then, caches that forget by the clock have forgotten."""

BURST = 200_000
"""Blocks of memory, about 14 MB of objects, that a burst takes at least; what less would give back is not worth it."""

_STEADY = 20_000
"""Blocks by which two looks may differ while nothing much happens."""


def settle() -> None:
    """Exempt everything that start-up has loaded, and collect the rest seldom; call it once, before serving.

    By default the collector would walk all connections again and again. Each walk stops the process for 10 ms or more,
    and finds nothing: connections are freed by their reference counts.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLD)


async def give_back(forget: Callable[[], None]) -> None:
    """Return memory to the system after each burst; never returns. ``forget`` clears caches.

    CPython takes memory by the MiB, and returns a MiB when nothing in it is in use. After a burst, nearly each of them
    holds one or two objects of fifty bytes: a line in a cache, or a free object that CPython keeps to use it again.
    """
    idle = sys.getallocatedblocks()
    while True:
        await _end_of_burst()
        _give_back(forget, idle)
        await asyncio.sleep(AGAIN_SECONDS)
        _give_back(forget, idle)


async def _end_of_burst() -> None:
    """Wait until much of what was in use at the most is free, and no more is being freed."""
    most = before = sys.getallocatedblocks()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        now = sys.getallocatedblocks()
        most = max(most, now)
        if most - now >= BURST and abs(now - before) < _STEADY:
            return
        before = now


def _give_back(forget: Callable[[], None], idle: int) -> None:
    forget()
    _forget_attributes()
    if sys.getallocatedblocks() - idle < BURST:  # else a collection takes long, and the memory is in use
        gc.collect()  # clears CPython's lists of free objects, too
    _trim(0)


_forget_attributes: Callable[[], None] = (
    getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache  # noqa: SLF001 — documented
)
"""Clears CPython's cache of attributes. It holds their names: uvicorn's clock looks up a new ``"dst"`` each second."""

_trim: Callable[[int], object] = getattr(ctypes.CDLL(None), "malloc_trim", int)
"""Returns the free part of what malloc took, which is for larger objects; only glibc's malloc has it."""

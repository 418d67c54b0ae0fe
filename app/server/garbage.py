"""Garbage collection in a worker, and the return of its memory to the system."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
from collections.abc import Callable

THRESHOLD = (5_000, 200, 100)
"""New objects before a collection of the youngest generation, then collections before one of each older generation.

A collection of the youngest takes up to a microsecond for each new object, and the process serves nobody meanwhile.
"""

LOOK_SECONDS = 1.0
"""Seconds between two checks of the memory in use."""

AGAIN_SECONDS = 10.0
"""Seconds after which memory is returned once more: by then, caches with a time limit have expired."""

BURST = 200_000
"""The fewest blocks of memory in a burst, about 14 MB of objects; returning less is not worth the time."""

_STEADY = 20_000
"""The most blocks by which two checks differ when memory use is steady."""


def share() -> None:
    """Exempt what the master has imported from collection. Call it before the first worker is forked.

    A collection writes to every object that it looks at. In a worker it would copy nearly every page that the worker
    shares with the master.
    """
    gc.collect()
    gc.freeze()


def settle() -> None:
    """Exempt everything that start-up has loaded, and collect the rest rarely. Call it once, before serving.

    By default the collector would walk all connections again and again. Each walk stops the process for 10 ms or more
    and finds nothing, because reference counts free the connections.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLD)


async def give_back(forget: Callable[[], None]) -> None:
    """Return memory to the system after each burst; never returns. ``forget`` clears caches.

    CPython takes memory by the MiB, and returns a MiB when nothing in it is in use. After a burst, nearly every MiB
    holds one or two objects of fifty bytes: an entry of a cache, or a free object that CPython keeps for reuse.
    """
    idle = sys.getallocatedblocks()
    while True:
        await _end_of_burst()
        _give_back(forget, idle)
        await asyncio.sleep(AGAIN_SECONDS)
        _give_back(forget, idle)


async def _end_of_burst() -> None:
    """Wait until much of the memory at the peak is free, and the amount in use is steady."""
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
    if sys.getallocatedblocks() - idle < BURST:  # otherwise the memory is in use, and a collection takes long
        gc.collect()  # also clears CPython's lists of free objects
    _trim(0)


_forget_attributes: Callable[[], None] = (
    getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache  # noqa: SLF001 — documented
)
"""Clears CPython's attribute cache, which holds names: uvicorn's clock looks up a new ``"dst"`` each second."""

_trim: Callable[[int], object] = getattr(ctypes.CDLL(None), "malloc_trim", int)
"""Returns the free memory of malloc, which serves larger objects; only glibc's malloc has this function."""

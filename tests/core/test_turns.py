"""Long computations, step by step."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from itertools import pairwise

from app.core import turns

ITEMS = 200


async def test_computations_in_the_thread_run_one_after_the_other() -> None:
    """Computation in the thread lets the loop go on, and the next one begins when it is over."""
    over = threading.Event()
    order: list[str] = []

    def first() -> str:
        over.wait(10)
        order.append("first")
        return "result"

    waiting = [
        asyncio.ensure_future(turns.in_thread(first)),
        asyncio.ensure_future(turns.in_thread(partial(order.append, "second"))),
    ]
    await asyncio.sleep(0.01)
    assert order == []
    over.set()
    assert await asyncio.gather(*waiting) == ["result", None]
    assert order == ["first", "second"]


async def test_others_go_on_while_many_items_are_handled() -> None:
    """Loop goes on with others while items that take long together are handled, and all are handled in their order."""
    handled: list[int] = []
    seen: list[int] = []

    def handle(item: int) -> None:
        handled.append(item)
        time.sleep(turns.STEP_SECONDS / 4)

    async def other() -> None:
        while len(handled) < ITEMS:
            seen.append(len(handled))
            await asyncio.sleep(0)

    await asyncio.gather(turns.each(range(ITEMS), handle), other())
    assert handled == list(range(ITEMS))
    assert max(later - earlier for earlier, later in pairwise(seen)) <= 4

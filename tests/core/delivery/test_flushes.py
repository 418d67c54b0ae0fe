"""The flushes of one turn."""

import asyncio
from typing import Any

from app.core.delivery.flushes import Flushes


async def test_a_flush_that_fails_keeps_no_other_from_its_turn() -> None:
    """Flushes call all that have joined in one turn, and those after one that fails in the next."""
    flushes, called, failed = Flushes(), list[str](), list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))

    def fail() -> None:
        raise RuntimeError

    flushes.join(lambda: called.append("first"))
    flushes.join(fail)
    flushes.join(lambda: called.append("second"))
    assert called == [], "not within the call that joins"
    await asyncio.sleep(0)
    assert called == ["first"]
    await asyncio.sleep(0)
    assert called == ["first", "second"]
    assert len(failed) == 1
    flushes.join(lambda: called.append("third"))
    await asyncio.sleep(0)
    assert called[2:] == ["third"]


async def test_a_flush_that_joins_again_has_its_next_turn() -> None:
    """Flush that joins while it is called is called again in the next turn, so that it cannot hold one up for ever."""
    flushes, called = Flushes(), list[int]()

    def again() -> None:
        called.append(len(called))
        flushes.join(again)

    flushes.join(again)
    for turn in range(1, 4):
        await asyncio.sleep(0)
        assert called == list(range(turn))

"""The composition root."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from app.main import in_turns


async def test_thousands_of_items_hold_nobody_up() -> None:
    """Loop goes on with others while thousands of items are handled, and all are handled in their order."""
    handled: list[int] = []
    seen: list[int] = []

    async def other() -> None:
        while len(handled) < 2000:
            seen.append(len(handled))
            await asyncio.sleep(0)

    await asyncio.gather(in_turns(range(2000), handled.append), other())
    assert handled == list(range(2000))
    assert max(later - earlier for earlier, later in pairwise(seen)) <= 100

"""Reads that many ask for at once: one for those that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from app.bus.reads import together as module
from app.bus.reads.together import Together
from app.core.errors import UnavailableError


class Log:
    """What is read: it answers when the test lets it, and keeps what it was asked for together."""

    def __init__(self) -> None:
        self.reads: list[Sequence[int]] = []
        self.going_on = asyncio.Event()
        self.fault: Exception | None = None

    async def read(self, what: Sequence[int]) -> list[int]:
        self.reads.append(what)
        await self.going_on.wait()
        if self.fault is not None:
            raise self.fault
        return [10 * one for one in what]


async def test_what_waits_for_a_read_is_read_together() -> None:
    """Reads that are asked for while one is under way are one read, each thing once, and so many at most."""
    log = Log()
    together = Together(log.read, most=3, refusal="closed")
    asked = [asyncio.create_task(together.ask(0))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asked += [asyncio.create_task(together.ask(one)) for one in (0, 1, 1, 2, 3, 4)]
    await asyncio.sleep(0)
    log.going_on.set()
    assert await asyncio.gather(*asked) == [0, 0, 10, 10, 20, 30, 40]
    assert log.reads == [[0], [0, 1, 2], [3, 4]]


@pytest.mark.parametrize("fault", [UnavailableError("away"), ValueError("a bug")], ids=["away", "a bug"])
async def test_a_read_that_fails_is_told_to_all_it_was_for(fault: Exception) -> None:
    """Read that fails raises for everybody whom it was for, also if one has left; the next one works."""
    log = Log()
    together = Together(log.read, most=3, refusal="closed")
    leaving, *asked = [asyncio.create_task(together.ask(one)) for one in (1, 2, 3)]
    await asyncio.sleep(0)
    leaving.cancel()
    log.fault = fault
    log.going_on.set()
    assert await asyncio.gather(*asked, return_exceptions=True) == [fault, fault]
    log.fault = None
    assert await together.ask(1) == 10


async def test_a_log_that_is_away_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read that finds the log away refuses what has waited as long, too: it would find the same, one after another."""
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0)
    log = Log()
    together = Together(log.read, most=1, refusal="closed")
    asked = [asyncio.create_task(together.ask(one)) for one in (1, 2, 3)]
    for _ in range(2):  # they ask, and the first read begins
        await asyncio.sleep(0)
    log.fault = UnavailableError("away")
    log.going_on.set()
    assert await asyncio.gather(*asked, return_exceptions=True) == [log.fault] * 3
    assert log.reads == [[1]]


async def test_everything_that_waits_is_refused_at_the_end() -> None:
    """Read that is under way when the server stops is refused, and so is one that has not begun."""
    log = Log()
    together = Together(log.read, most=1, refusal="closed")
    asked = [asyncio.create_task(together.ask(one)) for one in (1, 2)]
    for _ in range(2):  # they ask, and the first read begins
        await asyncio.sleep(0)
    together.close()
    refused = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(error) for error in refused] == [UnavailableError] * 2

"""A thousand messages a second through killed connections and restarts, and a few subscribers that keep the account."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from tests.support.chaos import Place
from tests.support.crowd import Crowd, Tally
from tests.support.live import LiveLedger
from tests.support.rewritten import Present
from tests.support.subscribers import V1, EventStream, running
from tests.support.verdict import Ledger
from tests.support.worlds.fault import Fault

NAMES = ("hall", "room.1")
TOGETHER = 25
"""Messages of a push."""
RATE = 1000
"""Messages a second, of all publishers."""
PUBLISHERS = 8
SUBSCRIBERS = 4
KILLED = 50
"""Connections to the engine that are killed at least."""
PAUSE = 0.3
"""Seconds between two cuts."""
RESTARTS = 2
SETTLING = 30


class Result(NamedTuple):
    """How it went."""

    wrong: list[str]
    tally: Tally
    killed: int
    """Connections to the engine."""
    report: str


class SteadyRun(Crowd):
    """One run on one place."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.server.url, Ledger({}) if place.world.history else LiveLedger())
        self._place = place
        self._over = False
        self._killed = 0
        for number in range(SUBSCRIBERS):
            form = (V1, EventStream)[number % 2]
            name = NAMES[number // 2 % len(NAMES)]
            self.subscribers.append(form(place.server.url, name, timeline=self.timeline, name=f"{number}-"))

    async def run(self) -> Result:
        """Publish until everything has broken, then let everybody reach the end."""
        async with running(self.subscribers):
            await self.opened()
            publishers = [asyncio.create_task(self._publish(number)) for number in range(PUBLISHERS)]
            await self._break()
            self._over = True
            await asyncio.gather(*publishers)
            settled = await self.settle(NAMES, seconds=SETTLING)
            self.ledger.read(await self._place.world.read(NAMES))
            held: Present = {}
            if self._place.world.history:
                held = {name: await self.held(name) for name in NAMES}
        wrong = [] if settled else [f"not everybody had the last message within {SETTLING} s"]
        wrong += [*self.faults(), *(self.faults(held) if held else [])]
        return Result(wrong, self.tally(), self._killed, self.report(str(self._place.world.name), wrong, []))

    async def _publish(self, number: int) -> None:
        step = TOGETHER * PUBLISHERS / RATE
        due = time.monotonic() + step * number / PUBLISHERS
        while not self._over:
            await asyncio.sleep(due - time.monotonic())
            await self.publish("many", NAMES[number % len(NAMES)], number=TOGETHER, size=100)
            due = max(due + step, time.monotonic() - step)

    async def _break(self) -> None:
        """Kill connections to the engine, and restart it where it keeps its data."""
        world = self._place.world
        assert world.link is not None
        restarts = RESTARTS if "restart" in world.faults else 0
        while restarts or self._killed < KILLED:
            await asyncio.sleep(PAUSE)
            self._killed += world.link.live
            self._place.portal.call(world.link.cut)
            if restarts and self._killed >= KILLED / (1 + restarts):
                restarts -= 1
                await world.strike(Fault(0, "restart", world.faults["restart"][-1], 0), self)

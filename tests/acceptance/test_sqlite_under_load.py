"""A log in one file, while every worker is killed under load and its disk fills up, on real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.crowd import Crowd
from tests.support.postgres import children
from tests.support.server import Server
from tests.support.subscribers import V1, EventStream, LongPoll, ManyV1, Plain, running
from tests.support.verdict import Ledger

CHANNELS = "backend: ${DATABASE_URL}\ndefaults: {publish: anyone, history: {size: 100000}}\nchannels: {a: {}, b: {}}\n"
NAMES = ("a", "b")

RATE = 1000
"""Messages a second, of both channels together."""

AT_ONCE = 20
"""Messages of a request."""

KILLS, BETWEEN = 3, 0.9
"""How often every worker is killed, and the seconds between."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    env = {"DATABASE_URL": f"sqlite:///{tmp_path}/log.db", "WEB_CONCURRENCY": "2", "LOG_LEVEL": "warning"}
    with Server(channels=CHANNELS, env=env, ready_path="/health/ready") as server:
        yield server


class Load(Crowd):
    """Subscribers of every form, and a steady stream of messages."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.url, Ledger({}))
        self._over = asyncio.Event()
        self.subscribers = [
            form(server.url, *channels, timeline=self.timeline, name=f"{number}-")
            for number, (form, channels) in enumerate(
                [(Plain, "a"), (V1, "a"), (EventStream, "b"), (LongPoll, "b"), (ManyV1, NAMES)]
            )
        ]

    async def play(self, server: Server) -> None:
        """Publish while every worker is killed, again and again; then let everybody reach the end."""
        async with running(self.subscribers), asyncio.TaskGroup() as group:
            await self.opened()
            publishers = [group.create_task(self._publish(name, group)) for name in NAMES]
            for _ in range(KILLS):
                await asyncio.sleep(BETWEEN)
                for pid in children(server.pid):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(BETWEEN)
            self._over.set()
            await asyncio.gather(*publishers)
            await self.settle(NAMES, seconds=20)

    async def _publish(self, name: str, group: asyncio.TaskGroup) -> None:
        """Send what is due, whether what was sent before is answered or not."""
        while not self._over.is_set():
            group.create_task(self.publish("many", name, number=AT_ONCE, size=60))
            await asyncio.sleep(len(NAMES) * AT_ONCE / RATE)


def test_nothing_acknowledged_is_lost_when_every_worker_is_killed(server: Server) -> None:
    """Subscribers of every form get each message once and in order while 1,000 a second come and all workers die."""

    async def play() -> Load:
        load = Load(server)
        await load.play(server)
        return load

    load = asyncio.run(play())
    if faults := load.faults():
        pytest.fail(load.report("", faults, ()), pytrace=False)
    assert load.tally().acknowledged > RATE
    assert load.tally().gaps == 0

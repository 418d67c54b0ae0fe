"""Any schedule of publishes, killed workers and subscribers that stall, vanish and come back, on real processes.

A schedule comes from a seed. ``ABIDE_SEED=7,8`` plays these seeds instead of the suite's; a failure prints its own.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.support.crowd import Crowd
from tests.support.processes import free_port
from tests.support.server import Server
from tests.support.subscribers import V1, EventStream, LongPoll, ManyV1, Plain, running
from tests.support.verdict import Ledger

CHANNELS = """\
backend: ${DATABASE_URL:-memory://}
defaults: {publish: anyone, history: {size: 100000}}
channels:
  long: {}
  short: {history: {size: 20}}
  "chat.{room}": {}
"""
NAMES = ("long", "short", "chat.a")
SIZES = {"short": 20}
"""Of the channels whose history is shorter than what is published."""

SMALL_BUFFER = 32 * 1024
"""With it a subscriber that does not read falls behind after some hundred kilobytes."""

FORMS = 10
"""Subscribers of a run, two of each form."""

STEPS = 120

SECONDS = 20.0
"""The longest that everybody may need in the end."""

SEEDS = [int(seed) for seed in os.environ.get("ABIDE_SEED", "1,2,3").split(",")]


class Step(NamedTuple):
    """One thing that happens: ``number`` messages of ``size`` to ``channel``, or something to the ``number``th."""

    action: str
    number: int
    channel: str = ""
    size: int = 0


def schedule(seed: int, *, kills: int) -> list[Step]:
    """Return what happens in a run."""
    chance = random.Random(seed)  # noqa: S311 — a test that can be repeated, not a secret

    def step() -> Step:
        match chance.choices(("publish", "burst", "subscriber", "pause"), (8, 3, 12, 6))[0]:
            case "publish":
                action = chance.choice(("once", "insist", "hurry"))
                return Step(action, chance.randint(1, 15), chance.choice(NAMES), chance.choice((10, 3000)))
            case "burst":
                return Step("many", chance.randint(30, 120), chance.choice(NAMES), chance.choice((10, 6000)))
            case "subscriber":
                action = chance.choices(("leave", "come", "stall", "go_on"), (2, 3, 2, 3))[0]
                return Step(action, chance.randrange(FORMS))
            case _:
                return Step("pause", chance.randint(1, 150))

    steps = [step() for _ in range(STEPS)]
    for _ in range(kills):
        steps.insert(chance.randint(5, len(steps) - 15), Step("kill", chance.choice((1, 1, 2))))
    return steps


class Run(Crowd):
    """One schedule, played."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.url, Ledger(SIZES))
        self._server = server
        self._work: dict[str, asyncio.Queue[Step]] = defaultdict(asyncio.Queue)
        self.subscribers = [
            form(server.url, *channels, timeline=self.timeline, name=f"{number}-", receive_buffer=SMALL_BUFFER)
            for number, (form, channels) in enumerate(
                [
                    *((form, (name,)) for form in (Plain, V1, EventStream, LongPoll) for name in ("long", "short")),
                    (ManyV1, NAMES),
                    (ManyV1, NAMES),
                ]
            )
        ]

    async def play(self, steps: Sequence[Step]) -> None:
        """Let it all happen, then let everybody come back and reach the end."""
        async with running(self.subscribers), asyncio.TaskGroup() as group:
            await self.opened()
            publishers = [group.create_task(self._publish(name)) for name in NAMES]
            for step in steps:
                self.timeline.note(str(tuple(step)))
                await self._do(step)
            await asyncio.gather(*(self._work[name].join() for name in NAMES))
            for publisher in publishers:
                publisher.cancel()
            await self.settle(NAMES, seconds=SECONDS)

    async def _do(self, step: Step) -> None:
        match step.action:
            case "pause":
                await asyncio.sleep(step.number / 1000)
            case "kill":
                for pid in workers(self._server)[: step.number]:
                    os.kill(pid, signal.SIGKILL)
            case "leave" | "come" | "stall" | "go_on":
                getattr(self.subscribers[step.number], step.action)()
            case _:
                self._work[step.channel].put_nowait(step)

    async def _publish(self, channel: str) -> None:
        """Be the publisher of one channel."""
        while True:
            step = await self._work[channel].get()
            await self.publish(step.action, channel, number=step.number, size=step.size)
            self._work[channel].task_done()


def workers(server: Server) -> list[int]:
    """Return the pids of the workers that serve."""
    pids = [line["pid"] for line in list(server.log) if line["event"] == "serving"]
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def check(server: Server, seed: int, *, kills: int) -> None:
    """Play a seed's schedule; fail with all that is needed to see why."""
    steps = schedule(seed, kills=kills)
    run = Run(server)
    asyncio.run(run.play(steps))
    if faults := run.faults():
        pytest.fail(run.report(f"ABIDE_SEED={seed} plays it again", faults, map(tuple, steps)), pytrace=False)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_place_is_lost_on_postgres(database_url: str, seed: int) -> None:
    """Subscribers of every form get each message once and in order, or are told of a gap, while workers are killed."""
    env = {"DATABASE_URL": database_url, "WEB_CONCURRENCY": "2"}
    with Server(channels=CHANNELS, env=env) as server:
        check(server, seed, kills=3)


@pytest.mark.parametrize("seed", SEEDS[:1])
def test_no_place_is_lost_in_memory(seed: int) -> None:
    """Subscribers of every form get each message once and in order, or are told of a gap, on the embedded default."""
    with Server(channels=CHANNELS) as server:
        check(server, seed, kills=0)


def test_no_position_is_judged_before_its_log_was_reached(database_url: str) -> None:
    """History asks to try again while the log's epoch is unknown, by which every position would seem foreign."""
    nowhere = f"postgresql://127.0.0.1:{free_port()}/nowhere"
    with Server(channels=CHANNELS, env={"DATABASE_URL": database_url, "DIRECT_DATABASE_URL": nowhere}) as server:
        answer = httpx.get(f"{server.url}/long/history?since=some:1", timeout=20)  # it waits for the log first
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"] == "1"

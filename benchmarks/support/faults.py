"""Faults under load: listening connections that are killed, and a server that restarts."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import asyncpg

from benchmarks.support.lab import RECEIVERS, Deployment, Lab, Section, median, milliseconds
from benchmarks.support.messages import Receipt
from benchmarks.support.processes import Worker
from benchmarks.support.sides import STOCK_APPLICATION
from benchmarks.support.speed import SMALL
from benchmarks.support.waiting import until

RATE = 500
"""Messages a second while things break."""

LISTENERS = "abide listen"
"""The application_name of our listening connections."""

_STOCK_PATIENCE = 3.0
_BACK_SECONDS = 15.0
_WARM_UP_SECONDS = 1.0
_PAUSE, _STORM_PAUSE = 1.5, 0.3
_STORM_SHARE = 4
"""A storm has a fourth of the kills, and they come before a connection is a second old."""

_PAUSE_STEP, _PAUSE_STEPS = 0.013, 20
"""Added to the pause between a recovery and the next kill, so that the kills do not keep step with a timer."""

_USUAL = 3.0
_LEAST_USUAL = 0.01
"""A message is on time when its delay is at most three medians of those before the first outage, or 10 ms."""

_PIDS = "SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND datname = $2"
_KILL = "SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) pid"


@dataclass(frozen=True, slots=True)
class _Outage:
    """From when we count, and from when a message can only arrive by new connections."""

    began: float
    over: float


async def recovery(lab: Lab) -> Section:
    """Kill all listening connections at once, again and again, and see when each receiver has caught up."""
    section = Section("recovery", f"Recovery from killed LISTEN connections, {RATE} messages/s", ())
    section.columns = ("side", "kills", "to caught up: median", "max", "lost", "doubled", "out of order")
    section.rows.append(await _stock_recovery(lab))
    kills = lab.options.kills
    for name, count, pause in (
        ("Abide", kills, _PAUSE),
        (f"Abide, kills every {_STORM_PAUSE} s", max(2, kills // _STORM_SHARE), _STORM_PAUSE),
    ):
        times, receipts = await _recovery(lab, name, count, pause)
        section.data[name] = times
        section.rows.append((name, str(count), milliseconds(median(times)), _longest(times), *_losses(receipts)))
    section.notes.append("Stock is deaf for good, its receivers and its publisher: it does not connect again.")
    section.notes.append(
        f"All {RECEIVERS + 1} listening connections are killed at the same moment; the slower receiver counts. Caught "
        "up: everything published so far has arrived, and messages come with their usual delay again."
    )
    return section


async def restart(lab: Lab) -> Section:
    """Restart the server (fast) under load and see when the receivers have caught up."""
    section = Section("restart", f"Fast restart of the server, {RATE} messages/s with idempotency keys", ())
    section.columns = ("restarts", "down", "to caught up: median", "max", "lost", "doubled", "out of order")
    outages: list[_Outage] = []
    async with lab.deployment("abide", recording=True) as deployment:
        await deployment.publisher.ask(Worker.begin, RATE, SMALL, keyed=True)
        for _ in range(lab.options.rounds):
            await asyncio.sleep(_WARM_UP_SECONDS)
            stopped = time.monotonic()
            await asyncio.to_thread(lab.server.restart, "fast")
            outages.append(_Outage(stopped, time.monotonic()))
            await _listeners(lab, deployment.database, ())
        await asyncio.sleep(_WARM_UP_SECONDS)
        receipts = await _finish(lab, deployment, "restart")
    down = [outage.over - outage.began for outage in outages]
    whole = _recovery_times(lab, "restart", receipts, outages)
    times = [taken - away for taken, away in zip(whole, down, strict=True)]
    row = (str(len(outages)), milliseconds(median(down)), milliseconds(median(times)), _longest(times))
    section.rows.append((*row, *_losses(receipts)))
    section.notes.append("Counted from when the server takes connections again (known to 10 ms).")
    section.data = {"seconds": times, "down": down}
    return section


async def _recovery(lab: Lab, what: str, kills: int, pause: float) -> tuple[list[float], list[Receipt]]:
    async with lab.deployment("abide", recording=True) as deployment:
        await deployment.publisher.ask(Worker.begin, RATE, SMALL, keyed=False)
        await asyncio.sleep(_WARM_UP_SECONDS)
        outages = await _kill_again_and_again(lab, deployment.database, kills, pause)
        await asyncio.sleep(_WARM_UP_SECONDS)
        receipts = await _finish(lab, deployment, f"recovery, {what}")
    return _recovery_times(lab, what, receipts, outages), receipts


async def _kill_again_and_again(lab: Lab, database: str, kills: int, pause: float) -> list[_Outage]:
    outages, old = [], list[int]()
    async with lab.connection() as control:
        for number in range(kills):
            old = await _listeners(lab, database, old)
            outages.append(await _kill(control, database, old))
            await asyncio.sleep(pause + _PAUSE_STEP * (number % _PAUSE_STEPS))
        await _listeners(lab, database, old)
    return outages


async def _kill(control: asyncpg.Connection, database: str, pids: Sequence[int]) -> _Outage:
    """Kill listening connections and return when they are gone."""

    async def are_gone() -> bool:
        return not set(pids) & set(await _pids(control, LISTENERS, database))

    began = time.monotonic()
    await control.execute(_KILL, pids)
    await until(are_gone, seconds=_BACK_SECONDS, every=0.0)
    return _Outage(began, time.monotonic())


async def _listeners(lab: Lab, database: str, old: Sequence[int]) -> list[int]:
    """Wait until every process listens by a connection that is not one of the ``old``; return their pids."""
    pids: list[int] = []

    async def are_new() -> bool:
        pids[:] = await _pids(control, LISTENERS, database)
        return len(pids) == RECEIVERS + 1 and not set(pids) & set(old)

    async with lab.connection() as control:
        if not await until(are_new, seconds=_BACK_SECONDS):
            lab.faults.append(f"{len(pids)} of {RECEIVERS + 1} processes listen after {_BACK_SECONDS:.0f} s")
    return pids


async def _pids(control: asyncpg.Connection, application: str, database: str) -> list[int]:
    return [row["pid"] for row in await control.fetch(_PIDS, application, database)]


async def _stock_recovery(lab: Lab) -> tuple[str, ...]:
    """Kill stock's connections once: it stays deaf, so there is nothing to repeat."""
    async with lab.deployment("stock", recording=False) as deployment, lab.connection() as control:
        await deployment.publisher.ask(Worker.begin, RATE, SMALL, keyed=False)
        await asyncio.sleep(_WARM_UP_SECONDS)
        await control.execute(_KILL, await _pids(control, STOCK_APPLICATION, deployment.database))
        await asyncio.sleep(_STOCK_PATIENCE)
        flow = await deployment.publisher.ask(Worker.end)
        receipts = await deployment.received(flow.published, patience=0.0)
    published = sum(flow.published.values())
    lost = max(receipt.lost for receipt in receipts)
    never = f"never (within {_STOCK_PATIENCE:.0f} s; {flow.errors.total()} of {published} publishes fail)"
    return "stock", "1", never, "-", str(lost), str(max(receipt.doubled for receipt in receipts)), "0"


async def _finish(lab: Lab, deployment: Deployment, what: str) -> list[Receipt]:
    flow = await deployment.publisher.ask(Worker.end)
    receipts = await deployment.received(flow.published)
    lab.judge(what, flow, receipts)
    return receipts


def _recovery_times(lab: Lab, what: str, receipts: Sequence[Receipt], outages: Sequence[_Outage]) -> list[float]:
    """Return the seconds from each outage's begin until the slower receiver had caught up."""
    caught_up = [_Course(receipt, outages[0].began) for receipt in receipts]
    times = []
    for number, outage in enumerate(outages, 1):
        ends = [course.caught_up_after(outage.over) for course in caught_up]
        if None in ends:
            lab.faults.append(f"{what}: a receiver did not catch up after outage {number}")
        times.append(max(end for end in ends if end is not None) - outage.began)
    return times


class _Course:
    """A receiver's messages in the order of publishing, and how far it was behind at each."""

    def __init__(self, receipt: Receipt, first_outage: float) -> None:
        pairs = sorted(zip(receipt.published_at, receipt.arrived_at, strict=True))
        self._published = [published for published, _ in pairs]
        self._arrived = [arrived for _, arrived in pairs]
        self._complete = list(accumulate(self._arrived, max))
        self._usual = max(_LEAST_USUAL, _USUAL * median(receipt.delays(until=first_outage)))

    def caught_up_after(self, moment: float) -> float | None:
        """Return when a message that was published after ``moment`` was the first on time, with none before it open."""
        for index in range(bisect_left(self._published, moment), len(self._published)):
            arrived = self._arrived[index]
            if arrived - self._published[index] <= self._usual and self._complete[index] <= arrived:
                return arrived
        return None


def _longest(times: Sequence[float]) -> str:
    return milliseconds(max(times, default=float("nan")))


def _losses(receipts: Sequence[Receipt]) -> tuple[str, str, str]:
    return (
        str(max(receipt.lost for receipt in receipts)),
        str(max(receipt.doubled for receipt in receipts)),
        str(max(receipt.disordered for receipt in receipts)),
    )

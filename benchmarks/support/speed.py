"""Throughput, and latency at a steady rate."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field

from benchmarks.support import sides
from benchmarks.support.lab import Lab, Section, median, milliseconds, percentile
from benchmarks.support.processes import PUBLISHERS, Worker

SMALL = 128
SIZES = (SMALL, 4096, 65536)
NOTIFY_LIMIT = 8000
"""PostgreSQL refuses a notification of this many bytes. It is the limit of stock."""

STEADY_RATE = 100
_WARM_UP_SECONDS = 1.0
_LEAST_SHARE = 0.95
"""The least share of a steady rate; a round below it is not valid."""

_SAMPLE = 5
"""Publishes at once, to see what stock does without our lock."""


@dataclass(slots=True)
class _Delays:
    """The p50 and p99 of each round, in seconds; of the slower receiver."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)

    def take(self, delays: list[list[float]]) -> None:
        """Enter one round: the delays of every receiver."""
        self.p50.append(max(percentile(one, 50) for one in delays))
        self.p99.append(max(percentile(one, 99) for one in delays))


async def throughput(lab: Lab) -> Section:
    """Measure messages a second from the first publish until both receivers have everything."""
    section = Section("throughput", f"Throughput, {PUBLISHERS} concurrent publishers, messages/s", ())
    section.columns = ("message", "stock", "Abide", "ratio", "rounds (stock | Abide)")
    for size in SIZES:
        rates = {"stock": list[float](), "abide": list[float]()}
        for _ in range(lab.options.rounds):
            if size < NOTIFY_LIMIT:
                rates["stock"].append(await _flood(lab, "stock", size))
            rates["abide"].append(await _flood(lab, "abide", size))
        section.data[str(size)] = rates
        section.rows.append(_throughput_row(size, rates["stock"], rates["abide"]))
    section.notes += await _stock_limits(lab)
    return section


async def latency(lab: Lab) -> Section:
    """Measure from the call of publish to the arrival in a receiver, at a steady rate."""
    section = Section("latency", f"Latency from publish to the slower receiver, {SMALL} B", ())
    section.columns = ("load", "p50", "p99", "p99 by round")
    maximum = median([await _flood(lab, "abide", SMALL) for _ in range(min(3, lab.options.rounds))])
    half = round(maximum / 2, -2)
    loads: dict[str, tuple[sides.Name, float]] = {
        f"stock, {STEADY_RATE}/s": ("stock", STEADY_RATE),
        f"stock and an INSERT, {STEADY_RATE}/s": ("storing stock", STEADY_RATE),
        f"Abide, {STEADY_RATE}/s": ("abide", STEADY_RATE),
        f"Abide, {half:,.0f}/s: half of its maximum": ("abide", half),
    }
    results = {name: _Delays() for name in loads}
    for _ in range(lab.options.rounds):
        for name, (side, rate) in loads.items():
            results[name].take(await _pace(lab, side, rate))
    for name, delays in results.items():
        section.rows.append(
            (
                name,
                milliseconds(median(delays.p50)),
                milliseconds(median(delays.p99)),
                ", ".join(milliseconds(one) for one in delays.p99),
            )
        )
        section.data[name] = asdict(delays)
    section.data["maximum"] = maximum
    return section


async def _flood(lab: Lab, side: sides.Name, size: int) -> float:
    async with lab.deployment(side, recording=False) as deployment:
        flow = await deployment.publisher.ask(Worker.flood, size, lab.options.seconds)
        receipts = await deployment.received(flow.published)
    lab.judge(f"throughput of {side}, {size} B", flow, receipts)
    return sum(flow.published.values()) / (max(receipt.finished for receipt in receipts) - flow.began)


async def _pace(lab: Lab, side: sides.Name, rate: float) -> list[list[float]]:
    """Publish at a steady rate and return every receiver's delays, but for those of the first messages."""
    seconds = _WARM_UP_SECONDS + 2 * lab.options.seconds
    async with lab.deployment(side, recording=True) as deployment:
        flow = await deployment.publisher.ask(Worker.pace, rate, SMALL, seconds)
        receipts = await deployment.received(flow.published)
    lab.judge(f"latency of {side}, {rate:.0f}/s", flow, receipts)
    reached = sum(flow.published.values()) / seconds
    if reached < rate * _LEAST_SHARE:
        lab.faults.append(f"latency of {side}: the machine was too busy for {rate:,.0f}/s: {reached:,.0f}/s")
    return [receipt.delays(flow.began + _WARM_UP_SECONDS) for receipt in receipts]


def _throughput_row(size: int, stock: list[float], ours: list[float]) -> tuple[str, ...]:
    rounds = " | ".join(" ".join(f"{rate:.0f}" for rate in rates) or "-" for rates in (stock, ours))
    name = f"{size} B" if size < 1024 else f"{size // 1024} KB"  # noqa: PLR2004 — bytes of a kilobyte
    if not stock:
        return name, "impossible", f"{median(ours):,.0f}", "-", rounds
    ratio = median([mine / theirs for mine, theirs in zip(ours, stock, strict=True)])
    return name, f"{median(stock):,.0f}", f"{median(ours):,.0f}", f"{ratio:.1f}", rounds


async def _stock_limits(lab: Lab) -> list[str]:
    """Show why stock needs a lock and what it cannot carry."""
    too_large = await _publish_at_once(lab, "stock", 1, SIZES[-1])
    unlocked = await _publish_at_once(lab, "bare stock", _SAMPLE, SMALL)
    lock = f"without it {unlocked.total()} of {_SAMPLE} concurrent publishes raise {_names(unlocked)}"
    return [
        f"Stock has a lock of ours around `publish`: {lock}.",
        f"Stock cannot carry {SIZES[-1] // 1024} KB: {next(iter(too_large), 'yet it did')}.",
    ]


async def _publish_at_once(lab: Lab, side: sides.Name, count: int, size: int) -> Counter[str]:
    async with lab.database(side) as database, lab.processes(side, database, 1) as [process]:
        return await process.ask(Worker.publish_at_once, count, size)


def _names(errors: Counter[str]) -> str:
    return ", ".join(sorted({error.partition(":")[0] for error in errors})) or "nothing"

"""The effect of two hundred attackers of each kind on the server and on other clients; see README.md here.

Ends with 1 if they make it hold too much, keep a small push waiting, or end its worker.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import httpx

from benchmarks.peers import machine
from benchmarks.support.probe import Probe
from benchmarks.support.report import RESULTS
from benchmarks.support.victim import Gang, Victim, victim
from tests.support.attacks import ATTACKS

NOBODY = "nobody"
"""The row without attackers, which shows the noise of the machine."""

MOST_MIB = 256
MOST_PUSH_MS = 200
MOST_STAY_SECONDS = 120
"""The bounds."""

_MIB = 1024 * 1024
_SETTLE_SECONDS = 1.0
_AFTER_SECONDS = 5.0
_PATIENCE = 30.0
_GIVE_UP_SECONDS = 150.0
_DELAY = 'abide_loop_delay_seconds_bucket{le="'
_LIMITED = 'abide_limited_total{limit="'


@dataclass(slots=True)
class Outcome:
    """The outcome of one kind of attack. Memory is in MiB, times of pushes in ms: p50, p99 and the longest."""

    before: float = 0.0
    peak: float = 0.0
    after: float = 0.0
    fresh: tuple[float, float, float] = (0.0, 0.0, 0.0)
    kept: tuple[float, float, float] = (0.0, 0.0, 0.0)
    failures: dict[str, int] = field(default_factory=dict)
    """Pushes that failed, by reason."""
    delay: str = ""
    """The longest delay of the event loop: the bound of its bucket, in seconds."""
    limits: dict[str, int] = field(default_factory=dict)
    """How often each bound was reached."""
    ran: float = 0.0
    waited: float = 0.0
    """The shares of the time in which the worker ran, and in which it waited for its core."""
    survived: bool = False
    begun: int = 0
    """How many attacks began."""
    sent: float = 0.0
    """MiB that attackers sent."""
    stayed: float | None = None
    """Seconds until the server had closed the last client that stays; None if not measured."""

    def broken(self) -> list[str]:
        """Return which bounds are broken."""
        slowest = max(self.fresh[2], self.kept[2])
        bounds = {
            f"{self.peak:.0f} MiB": self.peak > MOST_MIB,
            f"a push took {slowest:.0f} ms": slowest > MOST_PUSH_MS,
            f"{sum(self.failures.values())} pushes failed: {self.failures}": bool(self.failures),
            "the worker died": not self.survived,
            f"the last stayed {self.stayed or 0:.0f} s": (self.stayed or 0.0) > MOST_STAY_SECONDS,
        }
        return [what for what, is_broken in bounds.items() if is_broken]


def measure(name: str, count: int, seconds: float) -> Outcome:
    """Run attackers against a fresh server."""
    outcome = Outcome()
    with victim() as server:
        counted = server.metrics()
        gang = Gang(name, server.port, count) if name != NOBODY else None
        time.sleep(_SETTLE_SECONDS)
        server.begin_peak()
        outcome.before = server.rss() / _MIB
        probe = Probe(server.port)
        scheduled, began = server.scheduled(), time.monotonic()
        if gang is not None:
            gang.attack()
        asyncio.run(probe.run(seconds))
        passed = time.monotonic() - began
        outcome.ran, outcome.waited = (
            (after - before) / passed for before, after in zip(scheduled, server.scheduled(), strict=True)
        )
        if gang is not None:
            outcome.begun, sent = gang.leave()
            outcome.sent = sent / _MIB
        time.sleep(_AFTER_SECONDS)
        outcome.fresh, outcome.kept = probe.fresh.percentiles(), probe.kept.percentiles()
        outcome.failures = dict(probe.fresh.failures + probe.kept.failures)
        _examine(server, counted, outcome)
    return outcome


def _examine(server: Victim, before: Mapping[str, float], outcome: Outcome) -> None:
    """Note the state of the server afterwards, unless its worker is gone."""
    try:
        counted = server.metrics()
        outcome.peak, outcome.after = server.peak() / _MIB, server.rss() / _MIB
    except (httpx.HTTPError, OSError):
        return
    outcome.survived = server.is_unharmed()
    outcome.limits = {
        series.removeprefix(_LIMITED).rstrip('"}'): int(value - before.get(series, 0))
        for series, value in counted.items()
        if series.startswith(_LIMITED) and value != before.get(series, 0)
    }
    everything = counted[f'{_DELAY}+Inf"}}'] - before[f'{_DELAY}+Inf"}}']
    bounds = [series for series in counted if series.startswith(_DELAY)]
    enough = [series for series in bounds if counted[series] - before[series] == everything]
    outcome.delay = min((series.removeprefix(_DELAY).rstrip('"}') for series in enough), key=float)


def measure_stay(name: str, count: int) -> float:
    """Return the seconds until the server has closed the last of the clients that never leave."""
    with victim() as server:
        before = server.sockets() + ATTACKS[name].publishes  # publishers stay
        gang = Gang(name, server.port, count, relentless=False)
        gang.attack()
        began = time.monotonic()
        _until(lambda: server.sockets() >= before + count // 2, _PATIENCE)
        _until(lambda: server.sockets() <= before, _GIVE_UP_SECONDS)
        stayed = time.monotonic() - began
        gang.leave()
    return stayed


def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


def report(count: int, seconds: float, outcomes: Mapping[str, Outcome]) -> str:
    """Write the table."""
    facts = "\n".join(f"* {name}: {value}" for name, value in machine.facts().items())
    columns = (
        "attack", "each of them", "RSS MiB: before, peak, 5 s after", "push ms on a new connection: p50, p99, max",
        "on a kept one", "pushes failed", "loop late, s", "ran, waited for its core", "bounds met", "begun, MiB sent",
        "last closed after, s",
    )  # fmt: skip
    rows = [columns, ["---"] * len(columns), *(_row(name, outcome) for name, outcome in outcomes.items())]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    broken = "\n".join(f"* {name}: {', '.join(one.broken())}" for name, one in outcomes.items() if one.broken())
    return (
        f"# {count} attackers of each kind\n\nAbide with one worker on `memory://`, started afresh for each kind, "
        f"attacked for {seconds:g} s by {count} clients at once, while others push 128 bytes every 20 ms. Memory and "
        "latency count while it is under attack. The loop's delay is the upper bound of its bucket in "
        "`abide_loop_delay_seconds`. Where the worker waited for its core for long, what "
        f"is slow is the machine.\n\n{facts}\n\n{table}\n\n## Broken bounds\n\n"
        f"At most {MOST_MIB} MiB, {MOST_PUSH_MS} ms for a push, none of them refused, the same worker; who stays, or "
        f"does not read, is closed within {MOST_STAY_SECONDS} s.\n\n{broken or 'None.'}\n"
    )


def _row(name: str, outcome: Outcome) -> list[str]:
    def joined(values: tuple[float, ...], digits: int) -> str:
        return ", ".join(f"{value:.{digits}f}" for value in values)

    return [
        name,
        ATTACKS[name].what if name in ATTACKS else "does nothing",
        joined((outcome.before, outcome.peak, outcome.after), 0) if outcome.survived else "the worker died",
        joined(outcome.fresh, 1),
        joined(outcome.kept, 1),
        str(sum(outcome.failures.values())),
        outcome.delay,
        f"{outcome.ran:.0%}, {outcome.waited:.0%}",
        ", ".join(f"{limit} {times:,}" for limit, times in sorted(outcome.limits.items())),
        f"{outcome.begun:,}, {outcome.sent:,.0f}",
        "" if outcome.stayed is None else f"{outcome.stayed:.0f}",
    ]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attackers", description="Attackers of each kind.")
    names = [NOBODY, *ATTACKS]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--attackers", type=int, default=200, help="how many at once (200); others write no results")
    parser.add_argument("--seconds", type=float, default=10, help="how long each kind attacks (10)")
    parser.add_argument("--until-closed", action="store_true", help="also wait until those who stay are closed")
    return parser.parse_args()


def main() -> int:
    """Measure, print and keep the report; return 1 if a bound is broken."""
    options = _parse()
    machine.raise_file_limit()
    outcomes: dict[str, Outcome] = {}
    for name in options.only or [NOBODY, *ATTACKS]:
        began = time.monotonic()
        outcome = outcomes[name] = measure(name, options.attackers, options.seconds)
        if options.until_closed and name in ATTACKS and ATTACKS[name].lasts:
            outcome.stayed = measure_stay(name, options.attackers)
        print(f"{time.monotonic() - began:.0f} s:", *_row(name, outcome), sep=" | ", file=sys.stderr, flush=True)
    text = report(options.attackers, options.seconds, outcomes)
    print(text)
    if not options.only and options.attackers == 200:  # noqa: PLR2004 — the default
        (RESULTS / "attackers.md").write_text(text, encoding="utf-8")
        kept = {"machine": machine.facts(), "attacks": {name: asdict(one) for name, one in outcomes.items()}}
        (RESULTS / "attackers.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return any(one.broken() for one in outcomes.values())


if __name__ == "__main__":
    sys.exit(main())

"""Every engine beside broadcaster's own adapter for the same server, over HTTP: 64 publishers, one subscriber.

Both sides are one process on one core, as their users run them, and each round starts everything afresh. So that both
promise the same, Redis Streams have ``appendfsync always`` and Kafka ``acks=all`` on both sides.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.client.fanclient import Client, ClientError, build
from benchmarks.peers.machine import cpu_of_all
from benchmarks.peers.servers import PEERS, Peer, PeerError, Place, serving
from benchmarks.support.lab import Lab, Section, median
from tests.support.engines import ENGINES

PUBLISHERS = 64
SIZE = 128
STEADY_RATE = 100

_WITHOUT_STOCK = "sqlite"
_SETTLE_SECONDS = 1.0
"""The stock code accepts a subscriber before it subscribes: what is published meanwhile is lost."""
_WARM_UP_SECONDS = 1.0
_CHANNELS = """\
backend: ${DATABASE_URL}
auth: {keys: "${PUSH_KEYS}"}
defaults: {publish: key}
channels: {"bench.{number}": {}}
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """One round of one side. Durations are milliseconds from a push until the subscriber has its message."""

    rate: float
    """Messages a second that the publishers get to the subscriber."""
    p50: float
    p99: float
    steady_p50: float
    """Of a rate that leaves everybody idle."""
    steady_p99: float
    cpu: float
    """CPU microseconds of the server, without the engine's, for each message."""
    engine_cpu: float
    """CPU microseconds of the engine for each message; 0 if it is no process of its own."""


@dataclass(frozen=True, slots=True)
class Side:
    """A server on an engine."""

    engine: str
    stock: bool

    @property
    def title(self) -> str:
        """Say which it is."""
        return f"{'broadcaster' if self.stock else 'Abide'}, {self.engine}"

    def peer(self, url: str) -> Peer:
        """Return what to start, with the engine's URL."""
        return replace(PEERS["blog"], environment=lambda _: {"BROADCAST_URL": url}) if self.stock else abide(url)

    @property
    def others(self) -> int:
        """Subscribers of other channels: the stock Redis adapter hears nothing until a second one comes."""
        return 1 if self.stock and self.engine == "redis" else 0


SIDES = [
    Side(engine, stock) for engine in ENGINES for stock in (True, False) if not (stock and engine == _WITHOUT_STOCK)
]


GOALS = [
    (Side("redis-stream", stock=False), Side("redis-stream", stock=True), 5.0),
    (Side("redis", stock=False), Side("redis", stock=True), 1.0),
    (Side("kafka", stock=False), Side("kafka", stock=True), 1.0),
    (Side("sqlite", stock=False), Side("postgres", stock=False), 1.0),
]
"""The least multiple of another's messages/s."""


def engines(lab: Lab) -> Section:
    """Measure every side in turn, and each other round in reverse order."""
    rounds: dict[Side, list[Figures]] = {side: [] for side in SIDES}
    with build() as binary:
        for number in range(lab.options.rounds):
            for side in SIDES[:: -1 if number % 2 else 1]:
                try:
                    rounds[side].append(_measure(side, binary, lab.options.seconds))
                except (ClientError, PeerError) as error:
                    lab.faults.append(f"{side.title}: {error}")
    section = Section("engines", f"Engines: {PUBLISHERS} publishers over HTTP, one subscriber, {SIZE} B", ())
    section.columns = (
        "server",
        "messages/s",
        "p50",
        "p99",
        f"p50 at {STEADY_RATE}/s",
        "p99",
        "CPU µs",
        "engine's",
        "by round",
    )
    section.rows += [_row(side, figures, rounds) for side, figures in rounds.items()]
    section.notes += [_goal(*goal, rounds) for goal in GOALS]
    section.data = {side.title: [asdict(figures) for figures in of] for side, of in rounds.items()}
    return section


def _measure(side: Side, binary: Path, seconds: float) -> Figures:
    with (
        ENGINES[side.engine]() as engine,
        serving(side.peer(engine.url)) as server,
        Client(binary, server.settings) as client,
    ):
        client.connect(subs=1, idle=side.others, inflight=1)
        time.sleep(_SETTLE_SECONDS)
        client.run(seconds=_WARM_UP_SECONDS, pubs=PUBLISHERS, lockstep=0, size=SIZE)
        before, engine_before = cpu_of_all(server.pid), cpu_of_all(engine.pid) if engine.pid else 0
        flood = client.run(seconds=seconds)
        cpu = cpu_of_all(server.pid) - before
        engine_cpu = cpu_of_all(engine.pid) - engine_before if engine.pid else 0
        steady = client.run(seconds=seconds, rate=STEADY_RATE)
    return Figures(
        rate=flood.messages / flood.seconds,
        p50=flood.latency_ms["p50"],
        p99=flood.latency_ms["p99"],
        steady_p50=steady.latency_ms["p50"],
        steady_p99=steady.latency_ms["p99"],
        cpu=cpu / flood.messages * 1_000_000,
        engine_cpu=engine_cpu / flood.messages * 1_000_000,
    )


def abide(url: str, workers: int = 1) -> Peer:
    """Return our server on an engine."""

    def environment(place: Place) -> dict[str, str]:
        usual = PEERS["abide"].environment(place)
        Path(usual["CHANNELS_CONFIG"]).write_text(_CHANNELS, encoding="utf-8")
        return usual | {"DATABASE_URL": url, "WEB_CONCURRENCY": str(workers)}

    return replace(PEERS["abide"], environment=environment)


def _row(side: Side, figures: Sequence[Figures], rounds: Mapping[Side, Sequence[Figures]]) -> tuple[str, ...]:
    if not figures:
        return side.title, *["failed"] * 8

    ratio = _ratio(side, Side(side.engine, stock=True), rounds)
    rate = f"{median([one.rate for one in figures]):,.0f}" + (f" (x {ratio:.1f})" if ratio and not side.stock else "")
    times = [[one.p50, one.p99, one.steady_p50, one.steady_p99] for one in figures]
    milliseconds = [f"{median(values):,.1f} ms" for values in zip(*times, strict=True)]
    cpu = [f"{median(values):,.0f}" for values in zip(*((one.cpu, one.engine_cpu) for one in figures), strict=True)]
    return side.title, rate, *milliseconds, *cpu, " ".join(f"{one.rate:.0f}" for one in figures)


def _goal(ours: Side, theirs: Side, least: float, rounds: Mapping[Side, Sequence[Figures]]) -> str:
    ratio = _ratio(ours, theirs, rounds)
    what = f"Goal: {ours.title} at least {least:g} x {theirs.title}"
    return f"{what}: {ratio:.2f}, {'met' if ratio >= least else 'missed'}." if ratio else f"{what}: not measured."


def _ratio(ours: Side, theirs: Side, rounds: Mapping[Side, Sequence[Figures]]) -> float | None:
    """Return the median of each round's ratio."""
    pairs = zip(rounds.get(ours, ()), rounds.get(theirs, ()), strict=False)
    return median([one.rate / other.rate for one, other in pairs]) if rounds.get(ours) and rounds.get(theirs) else None

"""What one more worker costs that hears every message: in the workers, and in the engine that tells it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from app.core.engines import ENGINES as KINDS
from benchmarks.client.fanclient import Client, ClientError, build
from benchmarks.peers.machine import cpu_of_all
from benchmarks.peers.servers import PeerError, serving
from benchmarks.support.engines import abide
from benchmarks.support.lab import Lab, Section, median
from tests.support.engines import ENGINES

WORKERS = 4
SUBSCRIBERS = 32
"""So many that every worker has some."""
RATE = 300
SHARED = [name for name, engine in KINDS.items() if engine.workers != "one process"]

_SETTLE_SECONDS = 1.0


class _Cost(NamedTuple):
    """CPU microseconds for each message."""

    workers: float
    engine: float


def hearing(lab: Lab) -> Section:
    """Compare one worker with four, for the same pushes and the same subscribers."""
    more: dict[str, list[_Cost]] = {name: [] for name in SHARED}
    with build() as binary:
        for number in range(lab.options.rounds):
            for name in SHARED[:: -1 if number % 2 else 1]:
                try:
                    one, four = (_measure(name, binary, count, lab.options.seconds) for count in (1, WORKERS))
                except (ClientError, PeerError) as error:
                    lab.faults.append(f"hearing of {name}: {error}")
                    continue
                more[name].append(
                    _Cost((four.workers - one.workers) / (WORKERS - 1), (four.engine - one.engine) / (WORKERS - 1))
                )
    section = Section("hearing", f"What one more worker costs for each message that it hears, at {RATE}/s", ())
    section.columns = ("engine", "CPU µs of the worker", "CPU µs of the engine")
    section.rows += [
        (name, *(f"{median(values):,.0f}" for values in zip(*costs, strict=True))) if costs else (name, "failed", "")
        for name, costs in more.items()
    ]
    section.notes.append(f"A third of what {WORKERS} workers take more than one, for {SUBSCRIBERS} subscribers.")
    section.data = {name: [cost._asdict() for cost in costs] for name, costs in more.items()}
    return section


def _measure(name: str, binary: Path, workers: int, seconds: float) -> _Cost:
    with (
        ENGINES[name]() as engine,
        serving(abide(engine.url, workers)) as server,
        Client(binary, server.settings) as client,
    ):
        time.sleep(_SETTLE_SECONDS)  # until all workers serve
        client.connect(subs=SUBSCRIBERS)
        client.run(seconds=_SETTLE_SECONDS, pubs=1, lockstep=0, rate=RATE)
        before, engine_before = cpu_of_all(server.pid), cpu_of_all(engine.pid) if engine.pid else 0
        answer = client.run(seconds=2 * seconds)
        took = cpu_of_all(server.pid) - before
        engine_took = cpu_of_all(engine.pid) - engine_before if engine.pid else 0
    return _Cost(took / answer.messages * 1_000_000, engine_took / answer.messages * 1_000_000)

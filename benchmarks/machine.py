"""A whole small machine: server, database and 10,000 subscribers in 512 MiB, with every message accounted for.

See README.md here. Ends with 1 if a subscriber of Abide misses a message, gets one twice, out of order, or is told of a
gap; if the kernel had to kill a process; or if the idle subscribers take more than they may.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.client import followers
from benchmarks.client.fanclient import ClientError, build
from benchmarks.peers import machine
from benchmarks.peers.servers import PeerError
from benchmarks.support import machine_report as report
from benchmarks.support.memory_group import MIB
from benchmarks.support.report import RESULTS
from benchmarks.support.small_machine import SIDES, Load, carry, idle, tell

SUBSCRIBERS, RATE, MINUTES, LIMIT = 10_000, 500, 10.0, 512 * MIB
PEER_MINUTES = 3.0
"""The peers show what they lose in less time."""

IDLE = 20_000
IDLE_SECONDS = 50.0
"""Every server pings each 20 s."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and keep the report; return 1 if Abide lost or doubled a message, or took too much memory."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # all that was started ends, as with Ctrl-C
    is_whole = options.subscribers >= SUBSCRIBERS
    kept = _kept() if is_whole else {}
    with ExitStack() as stack:
        binary = stack.enter_context(build(followers.SOURCE))
        most = machine.raise_file_limit(2 * IDLE)
        for name in options.only or [*SIDES, "idle"]:
            tell(f"{name} ...")
            minutes = options.minutes if name == "abide" else min(options.minutes, PEER_MINUTES)
            load = Load(min(options.subscribers, most), RATE, minutes)
            if name == "idle":
                count = min(IDLE * options.subscribers // SUBSCRIBERS, most)
                kept[name] = _idle(binary, count, IDLE_SECONDS if is_whole else 5.0)
                kept[name]["wanted"] = IDLE * options.subscribers // SUBSCRIBERS
            else:
                kept[name] = _side(name, binary, load)
            kept[name]["machine"] = machine.facts()
            if is_whole:  # after each, so that what is measured is not lost with what comes after
                _keep(kept)
    print(report.as_markdown(kept))
    return 1 if report.faults(kept) else 0


def _side(name: str, binary: Path, load: Load) -> dict[str, Any]:
    side = SIDES[name]
    if (absence := side.absence()) is not None:
        return {"absent": f"{side.title} was not measured: {absence}."}
    outcome = carry(side, binary, load, LIMIT)
    return {"load": asdict(load) | {"channels": load.channels, "drain_seconds": load.drain_seconds}, **asdict(outcome)}


def _idle(binary: Path, count: int, seconds: float) -> dict[str, Any]:
    try:
        return asdict(idle(binary, count, seconds))
    except (ClientError, PeerError, OSError) as error:
        return {"problem": f"{type(error).__name__}: {error}"}


def _kept() -> dict[str, Any]:
    """Return what earlier runs have kept: a run of some parts leaves the others."""
    path = RESULTS / "machine.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _keep(kept: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "machine.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (RESULTS / "machine.md").write_text(report.as_markdown(kept), encoding="utf-8")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.machine", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="how long Abide is under load (10)")
    parser.add_argument("--subscribers", type=int, default=SUBSCRIBERS, help="how many (10000); fewer write no results")
    parser.add_argument("--only", action="append", choices=[*SIDES, "idle"], help="this alone; may be repeated")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

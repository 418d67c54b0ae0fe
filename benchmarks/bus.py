"""The bus beside stock broadcaster's, on a real PostgreSQL; see README.md here.

Run it with ``make bench``. A whole run prints its report and writes it to ``results``; one that is
``--quick``, has ``--only`` some of the measurements or could not finish one of them only prints
it. ``engines`` and ``hearing`` have a report of their own, which is also written by a run of these two
only. The exit code is 1 when a message was lost, doubled or out of order, or a measurement failed.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable

from benchmarks.support import report
from benchmarks.support.database import idle, sql, sql_latency
from benchmarks.support.engines import engines
from benchmarks.support.faults import recovery, restart
from benchmarks.support.hearing import hearing
from benchmarks.support.lab import Lab, Options, Section, make_server
from benchmarks.support.speed import latency, throughput

TITLE = "The bus beside stock broadcaster"
OF_ENGINES = ("engines", "hearing")
"""What has a report of its own."""
ENGINES_TITLE = "All engines beside broadcaster's adapters"


async def _engines(lab: Lab) -> Section:
    """Measure the engines in a thread: their clients and servers are waited for."""
    return await asyncio.to_thread(engines, lab)


async def _hearing(lab: Lab) -> Section:
    """As above."""
    return await asyncio.to_thread(hearing, lab)


MEASUREMENTS: dict[str, Callable[[Lab], Awaitable[Section]]] = {
    "engines": _engines,
    "hearing": _hearing,
    "throughput": throughput,
    "latency": latency,
    "recovery": recovery,
    "restart": restart,
    "sql": sql,
    "sql-latency": sql_latency,
    "idle": idle,
}


def main() -> int:
    """Run the measurements that the command line chooses."""
    arguments = _parse()
    options = Options(
        quick=arguments.quick,
        rounds=arguments.rounds or (1 if arguments.quick else 5),
        kills=arguments.kills or (3 if arguments.quick else 100),
    )
    names = arguments.only or list(MEASUREMENTS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the server ends, too
    with make_server() as server:
        lab = Lab(server, options)
        return asyncio.run(_measure(lab, names))


async def _measure(lab: Lab, names: list[str]) -> int:
    facts = await report.machine(lab)
    sections = {}
    for name in names:
        began = time.monotonic()
        try:
            sections[name] = await MEASUREMENTS[name](lab)
        except Exception as error:  # noqa: BLE001 — the others are still worth measuring
            lab.faults.append(f"{name} failed: {type(error).__name__}: {_last_line(error)}")
            traceback.print_exc()
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(report.as_markdown(TITLE, facts, sections.values(), lab))
    for what, example in lab.examples.items():
        print(f"first of {what}: {example}", file=sys.stderr)
    if not lab.options.quick:
        _keep(facts, sections, lab)
    return 1 if lab.faults else 0


def _keep(facts: dict[str, str], sections: dict[str, Section], lab: Lab) -> None:
    engines = [sections[name] for name in OF_ENGINES if name in sections]
    if len(engines) == len(OF_ENGINES):
        report.write("engines", ENGINES_TITLE, facts, engines, lab)
    if len(sections) == len(MEASUREMENTS):
        report.write("bus", TITLE, facts, [one for name, one in sections.items() if name not in OF_ENGINES], lab)


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="The bus beside stock broadcaster's.")
    parser.add_argument("--quick", action="store_true", help="a short run, for trying; writes no results")
    parser.add_argument("--rounds", type=int, help="rounds of each measurement (5; quick: 1)")
    parser.add_argument("--kills", type=int, help="kills of the listening connections (100; quick: 3)")
    parser.add_argument("--only", action="append", choices=MEASUREMENTS, help="this alone; may be repeated")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

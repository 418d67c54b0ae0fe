"""Twenty thousand subscribers come back at once after a crash; see README.md here.

The server was killed with SIGKILL and has started again, so nothing of what they missed is in its memory. Each asks for
what comes after its own position, one of the last five hundred. Beside it, as many that only connect, to a server that
is as fresh.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.client.fanclient import Client, build
from benchmarks.peers import machine
from benchmarks.support.report import RESULTS
from tests.support.load_client import V1_PROTOCOL
from tests.support.postgres import PostgresServer
from tests.support.processes import free_port, kill, launch, wait_answer

CHANNELS = 'backend: "${DATABASE_URL}"\nchannels:\n  lebowski: {publish: anyone}\n'

HELD, MISSED = 1000, 500
"""Messages in the log, and how many of them a subscriber may have missed."""

SUBSCRIBERS, ROUNDS = 20_000, 5
ALONE, SINCE = "connects alone", "with `since`"
MOST_RATIO, MOST_READS = 2.0, 100
"""The goals: how much longer the storm may take than its connects alone, and how often it may read the log."""

_IN_FLIGHT = 2000
_PATIENCE = 60.0
_READ = re.compile(r"LOG:  execute [^:]*: (?:(?!LOG:  ).)*?abide\.log", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one storm."""

    seconds: float
    """From the first connect until the last subscriber is connected, and has the newest message."""
    cpu: float
    """The server's CPU seconds."""
    reads: int
    """Statements that read the log."""
    kib: float
    """The server's additional memory for each subscriber."""


class Server:
    """Abide on a database, with one worker on one core."""

    def __init__(self, url: str, folder: Path) -> None:
        self.port = free_port()
        channels = folder / "channels.yaml"
        channels.write_text(CHANNELS, encoding="utf-8")
        settings = {"PORT": str(self.port), "CHANNELS_CONFIG": str(channels), "DATABASE_URL": url, "DRAIN_SECONDS": "0"}
        with machine.pinned(0):
            command = [sys.executable, "-m", "app", "serve"]
            self._process = launch(command, os.environ | settings, stdout=subprocess.DEVNULL, stderr=None)
        if not wait_answer(self._process, self.port, "/health/ready", seconds=_PATIENCE):
            kill(self._process)
            msg = "the server does not become ready"
            raise RuntimeError(msg)
        self._pids = machine.family(self._process.pid)

    def rss(self) -> int:
        """Return the bytes in RAM."""
        return machine.resident(self._pids)

    def cpu(self) -> float:
        """Return the CPU seconds it has used."""
        return machine.cpu_seconds(self._pids)

    def fill(self) -> str:
        """Publish what is held, numbered from 0; return the label of the positions."""
        items = [{"channel": "lebowski", "message": {"n": number}} for number in range(HELD)]
        results = httpx.post(f"http://127.0.0.1:{self.port}/push", json=items, timeout=_PATIENCE).raise_for_status()
        return str(results.json()[-1]["epoch"])

    def kill(self) -> None:
        """End all of it at once, as a crash of the machine would."""
        kill(self._process)


def _storm(server: Server, binary: Path, log: Path, since: str, **storm: int) -> Outcome:
    """Connect all subscribers; then publish once, which each must get next. ``storm`` has ``subs`` and ``held``.

    Raises :class:`~benchmarks.client.fanclient.ClientError` if a message is lost, doubled or out of order.
    """
    settings = {
        "port": server.port,
        "path": f"/lebowski{since}",
        "ask": V1_PROTOCOL,
        "push": "/push/lebowski",
        "inflight": _IN_FLIGHT,
    }
    memory, logged, cpu = server.rss(), log.stat().st_size, server.cpu()
    with Client(binary, settings) as client:
        answer = client.connect(**storm, missed=MISSED)
        cpu = server.cpu() - cpu
        kib = (server.rss() - memory) / storm["subs"] / 1024
        client.run(count=1, seconds=_PATIENCE)
    reads = len(_READ.findall(log.read_bytes()[logged:].decode(errors="replace")))
    return Outcome(answer.seconds, cpu, reads, kib)


def measure(count: int, rounds: int) -> dict[str, list[Outcome]]:
    """Run both storms in turns, each on a server that has just started. The one before it is killed."""
    with build() as binary, PostgresServer() as database, tempfile.TemporaryDirectory(prefix="abide-bench-") as name:
        asyncio.run(database.execute("ALTER DATABASE postgres SET log_statement = 'all'"))
        server, held = Server(database.url(), Path(name)), HELD
        storms = {ALONE: "", SINCE: f"?since={server.fill()}:@S"}
        outcomes: dict[str, list[Outcome]] = {kind: [] for kind in storms}
        for number in range(rounds):
            for kind in list(storms)[:: -1 if number % 2 else 1]:
                server.kill()
                server = Server(database.url(), Path(name))
                outcomes[kind].append(_storm(server, binary, database.log, storms[kind], subs=count, held=held))
                held += 1  # what the storm has published at its end
        server.kill()
        return outcomes


def _median(outcomes: Sequence[Outcome], value: str) -> float:
    return statistics.median([float(getattr(one, value)) for one in outcomes])


def ratio(outcomes: Mapping[str, Sequence[Outcome]], value: str = "seconds") -> float:
    """Return how many times as much the storm takes as its connects alone: the median of each round's ratio."""
    pairs = zip(outcomes[SINCE], outcomes[ALONE], strict=True)
    return statistics.median([float(getattr(ours, value) / getattr(alone, value)) for ours, alone in pairs])


def report(count: int, outcomes: Mapping[str, Sequence[Outcome]]) -> str:
    """Write the table."""
    facts = "\n".join(f"* {name}: {value}" for name, value in machine.facts().items())
    rows = "\n".join(
        f"| {kind} | {_median(some, 'seconds'):.2f} | {_median(some, 'cpu'):.2f} | {_median(some, 'reads'):.0f} "
        f"| {_median(some, 'kib'):.1f} |"
        for kind, some in outcomes.items()
    )
    return (
        f"# {count:,} subscribers come back at once\n\n{facts}\n\n"
        "| they come | seconds until the last is live | CPU seconds of the server | reads of the log "
        f"| RSS, KiB more for each |\n| --- | --- | --- | --- | --- |\n{rows}\n\n"
        f"Medians of {len(outcomes[SINCE])} rounds in turns. With `since` it takes {ratio(outcomes):.2f} times as "
        f"long, and {ratio(outcomes, 'cpu'):.2f} times the CPU time. Goal: at most {MOST_RATIO:g} times as long.\n\n"
        f"Abide on PostgreSQL, one worker, killed with SIGKILL and started again; {_IN_FLIGHT:,} handshakes are under "
        f"way at once. With `since`: each from its own one of the last {MISSED} positions of one channel, until the "
        "last has the newest message. Each subscriber got what it had missed, once, in order, and the next message.\n"
    )


def main() -> int:
    """Measure, print and keep the report; return 1 if a message is lost or doubled, or a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resume", description="A storm of reconnects.")
    parser.add_argument(
        "--subscribers", type=int, default=SUBSCRIBERS, help=f"how many ({SUBSCRIBERS}); fewer write no results"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"how many ({ROUNDS}); fewer write no results")
    options = parser.parse_args()
    count = min(options.subscribers, machine.raise_file_limit())
    outcomes = measure(count, options.rounds)
    text = report(count, outcomes)
    print(text)
    if options.subscribers == SUBSCRIBERS and options.rounds >= ROUNDS:
        (RESULTS / "resume.md").write_text(text, encoding="utf-8")
    return ratio(outcomes) > MOST_RATIO or any(one.reads >= MOST_READS for one in outcomes[SINCE])


if __name__ == "__main__":
    sys.exit(main())

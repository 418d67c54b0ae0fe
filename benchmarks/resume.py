"""Ten thousand subscribers come back at once; see README.md here.

The server was killed and has started again, so nothing of what they missed is in its memory. Each asks
for what comes after its own position, somewhere in the last five hundred messages, while publishing
goes on. Beside it, as many that only want what is new.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvloop

from benchmarks.peers import machine
from benchmarks.support.report import RESULTS
from benchmarks.support.waiting import until
from tests.support.load_client import V1_PROTOCOL, WebSocket
from tests.support.postgres import PostgresServer
from tests.support.processes import free_port, kill, launch, wait_answer

ROOT = Path(__file__).parents[1]
CHANNELS = 'backend: "${DATABASE_URL}"\nchannels:\n  lebowski: {publish: anyone}\n'

HELD, MISSED = 1000, 500
"""Messages in the log, and how many of them a subscriber may have missed."""

_IN_FLIGHT = 2000
_PAUSE = 0.05
_PATIENCE = 60.0
_POSITION = re.compile(rb'"position":"\w+:(\d+)"')
_SEED = 20_000
_READ = re.compile(r"LOG:  execute [^:]*: (?:(?!LOG:  ).)*?abide\.log", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one storm."""

    seconds: float
    """From the first connect until every subscriber had the newest message."""
    reads: int
    """Statements that read the log."""
    kib: float
    """The server's additional memory for each subscriber."""
    faults: int
    """Subscribers that got a gap, or lost or doubled a message."""


class Subscriber(WebSocket):
    """One connection; counts on from the position that it asked for."""

    def __init__(self, since: str | None) -> None:
        super().__init__("/lebowski" + (f"?since={since}" if since else ""), lambda _: None, V1_PROTOCOL)
        self.at = int(since.partition(":")[2]) - 1 if since else None
        self._is_wrong = False
        self._unread = b""

    @property
    def is_faulty(self) -> bool:
        """Whether a message was lost or doubled, a gap was told, or the connection has ended."""
        return self._is_wrong or self.over_at is not None

    def receive(self, data: bytes) -> None:
        """Check that each position follows the one before; the first repeats what was asked for.

        It reads no frames: of millions of messages in seconds, that would be half of the client's time.
        """
        text = self._unread + data
        end = 0
        for found in _POSITION.finditer(text):
            offset, end = int(found[1]), found.end()
            self._is_wrong |= self.at is not None and offset != self.at + 1
            self.at = offset
        self._is_wrong |= b'"gap"' in text
        self._unread = text[max(end, len(text) - 100) :]


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

    def rss(self) -> int:
        """Return the bytes in RAM."""
        return machine.resident(machine.family(self._process.pid))

    def push(self, count: int) -> str:
        """Publish; return the position of the last message."""
        items = [{"channel": "lebowski", "message": {"n": number}} for number in range(count)]
        results = httpx.post(self._url("/push"), json=items, timeout=_PATIENCE).raise_for_status().json()
        return str(results[-1]["position"])

    def kill(self) -> None:
        """End all of it at once, as a crash of the machine would."""
        kill(self._process)

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


async def storm(server: Server, since: list[str | None]) -> tuple[float, list[Subscriber]]:
    """Connect all subscribers while publishing; return when all have the newest message, and how long it took."""
    gate = asyncio.Semaphore(_IN_FLIGHT)
    began = time.monotonic()

    async def connect(position: str | None) -> Subscriber:
        async with gate:
            return await Subscriber(position).connect(server.port)

    async def have(offset: int) -> bool:
        return all(one.is_faulty or (one.at is not None and one.at >= offset) for one in subscribers)

    publishing = asyncio.create_task(_publish(server))
    subscribers = await asyncio.gather(*map(connect, since))
    await until(lambda: have(0), seconds=_PATIENCE)
    publishing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await publishing
    _, _, last = (await asyncio.to_thread(server.push, 1)).partition(":")
    await until(lambda: have(int(last)), seconds=_PATIENCE)
    return time.monotonic() - began, subscribers


async def _publish(server: Server) -> None:
    while True:
        await asyncio.to_thread(server.push, 1)
        await asyncio.sleep(_PAUSE)


def _outcome(server: Server, log: Path, since: list[str | None]) -> Outcome:
    memory, logged = server.rss(), log.stat().st_size
    with machine.pinned(1), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        seconds, subscribers = runner.run(storm(server, since))
        kib = (server.rss() - memory) / len(since) / 1024
    reads = len(_READ.findall(log.read_bytes()[logged:].decode(errors="replace")))
    return Outcome(seconds, reads, kib, sum(one.is_faulty for one in subscribers))


def measure(count: int) -> dict[str, Outcome]:
    """Run both storms, each on a server that has just started. The first server is killed."""
    with PostgresServer() as database, tempfile.TemporaryDirectory(prefix="abide-bench-") as name:
        asyncio.run(database.execute("ALTER DATABASE postgres SET log_statement = 'all'"))
        server = Server(database.url(), Path(name))
        epoch, _, _ = server.push(HELD).partition(":")
        choose = random.Random(_SEED).randint  # noqa: S311 — a load
        storms: dict[str, list[str | None]] = {
            "at the head": [None] * count,
            "with since": [f"{epoch}:{choose(HELD - MISSED, HELD)}" for _ in range(count)],
        }
        outcomes = {}
        for kind, since in storms.items():
            server.kill()
            server = Server(database.url(), Path(name))
            outcomes[kind] = _outcome(server, database.log, since)
        server.kill()
        return outcomes


def report(count: int, outcomes: dict[str, Outcome]) -> str:
    """Write the table."""
    facts = "\n".join(f"* {name}: {value}" for name, value in machine.facts().items())
    rows = "\n".join(
        f"| {name} | {one.seconds:.2f} | {one.reads} | {one.kib:.1f} | {one.faults} |" for name, one in outcomes.items()
    )
    return (
        f"# {count:,} subscribers come back at once\n\n{facts}\n\n"
        "| they begin | seconds until all are live | reads of the log | RSS, KiB more for each | faults |\n"
        f"| --- | --- | --- | --- | --- |\n{rows}\n\n"
        f"Abide on PostgreSQL, one worker, just started. With `since`: each from its own one of the last {MISSED} "
        "positions, and what it missed is sent before it is live. A fault is a gap, a loss or a double. "
        "In both, publishing goes on.\n"
    )


def main() -> int:
    """Measure, print and keep the report; return 1 if a message was missed or the log was read too often."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resume", description="A storm of reconnects.")
    parser.add_argument("--subscribers", type=int, default=10_000, help="how many (10000); fewer write no results")
    options = parser.parse_args()
    count = min(options.subscribers, machine.raise_file_limit())
    outcomes = measure(count)
    text = report(count, outcomes)
    print(text)
    if count == parser.get_default("subscribers"):
        (RESULTS / "resume.md").write_text(text, encoding="utf-8")
    return any(one.faults or one.reads >= 100 for one in outcomes.values())  # noqa: PLR2004 — the goal


if __name__ == "__main__":
    sys.exit(main())

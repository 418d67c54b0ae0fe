"""A rolling restart under load: two workers on PostgreSQL are replaced while subscribers resume; see README.md here.

Ends with 1 if a subscriber misses a message, gets one twice, or is back later than the goal.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
import time
from collections.abc import Sequence
from statistics import quantiles
from typing import Any

import uvloop
from httpx import AsyncClient, Limits, TransportError

from app.bus.postgres import migrate
from benchmarks.peers.machine import raise_file_limit
from loadtests.reconciliation import Account
from tests.support.load_client import V1_PROTOCOL, WebSocket
from tests.support.postgres import PostgresServer
from tests.support.readers import until
from tests.support.server import Server

CHANNELS = """\
backend: ${DATABASE_URL}
channels:
  "bench.{room}": {publish: anyone, history: {size: 100000}}
"""
ROOMS = 100
BATCH = 10
"""Messages in one push."""

WORKERS = 2
"""They are replaced one after another, each in a window of its own."""

GOAL_SECONDS = 2.0
"""Beyond the windows, within which 99 % must be back after the first close."""

_RESTARTING = 1012
_AT_ONCE = 50


class Subscriber:
    """One WebSocket that resumes, with the account of what came."""

    def __init__(self, port: int, room: int) -> None:
        self.room = room
        self.account = Account(f"subscriber of {room}", f"bench.{room}")
        self.wrong: list[str] = []
        self.closed_at: list[float] = []
        self.back_at: list[float] = []
        """When the first message came after each reconnection."""
        self.opened = asyncio.Event()
        self._port = port
        self._attempt = 0

    async def run(self) -> None:
        """Connect, and come back as the clients do: after longer and longer pauses, until a message comes."""
        while True:
            target = f"/{self.account.channel}?since={self.account.position or 'earliest'}"
            connection = WebSocket(target, self._take, V1_PROTOCOL)
            with contextlib.suppress(OSError):
                await connection.connect(self._port)
                await connection.opened
                self.opened.set()
                await connection.over
                self._closed(connection)
            await asyncio.sleep(random.uniform(0, min(5, 0.1 * 2**self._attempt)))  # noqa: S311 — it spreads load
            self._attempt += 1

    def faults(self) -> list[str]:
        """Return what is wrong, in words."""
        row = self.account.row({})
        counts = {"holes": row.holes, "doubles": row.doubles, "gaps": row.gaps}
        return self.wrong + [f"{row.subscriber}: {count} {what}" for what, count in counts.items() if count]

    def _closed(self, connection: WebSocket) -> None:
        if connection.code not in (None, _RESTARTING):
            self.wrong.append(f"closed with {connection.code}")
        if not isinstance(connection.error, OSError):
            self.wrong.append(repr(connection.error))
        if len(self.closed_at) == len(self.back_at) and connection.over_at is not None:
            self.closed_at.append(connection.over_at)

    def _take(self, text: bytes) -> None:
        frame = json.loads(text)
        self.account.take(frame)
        if frame["type"] == "message" and len(self.back_at) < len(self.closed_at):
            self.back_at.append(time.monotonic())
            self._attempt = 0


class Publisher:
    """Publishes batches at a rate, and repeats each item until it is stored; counts the stored messages by room."""

    def __init__(self, url: str, rate: float) -> None:
        self.rate = rate
        self.stored = [0] * ROOMS
        self.going_on = True
        self.http = AsyncClient(base_url=url, limits=Limits(max_keepalive_connections=16), timeout=30)

    async def run(self) -> None:
        """Publish until told to stop."""
        due, number = time.monotonic(), 0
        async with self.http, asyncio.TaskGroup() as group:
            while self.going_on:
                group.create_task(self.push(range(number, number + BATCH)))
                number += BATCH
                due += BATCH / self.rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def push(self, numbers: Sequence[int]) -> None:
        """Store some messages; send uncertain ones again with the same key."""
        left: list[dict[str, Any]] = [
            {"channel": f"bench.{n % ROOMS}", "message": {"n": n}, "key": str(n)} for n in numbers
        ]
        while left:
            try:
                answer = await self.http.post("/push", json=left)
            except TransportError:
                await asyncio.sleep(0.05)
                continue
            if answer.status_code != 200:  # noqa: PLR2004
                continue
            failed = []
            for item, result in zip(left, answer.json(), strict=True):
                if "offset" in result:
                    self.stored[item["message"]["n"] % ROOMS] += 1
                else:
                    failed.append(item)
            left = failed


async def measure(server: Server, options: argparse.Namespace) -> bool:
    """Run it once, print the findings, and return whether it passed."""
    subscribers = [Subscriber(server.port, number % ROOMS) for number in range(options.subscribers)]
    running = []
    for start in range(0, len(subscribers), _AT_ONCE):
        some = subscribers[start : start + _AT_ONCE]
        running += [asyncio.create_task(subscriber.run()) for subscriber in some]
        await asyncio.gather(*(subscriber.opened.wait() for subscriber in some))
    publisher = Publisher(server.url, options.rate)
    publishing = asyncio.create_task(publisher.run())
    await asyncio.sleep(3)
    begun = time.monotonic()
    server.send_signal(signal.SIGHUP)
    most = WORKERS * options.window + 30
    await until(lambda: all(subscriber.back_at for subscriber in subscribers), "everybody back", seconds=most)
    await asyncio.sleep(2)
    publisher.going_on = False
    await publishing
    seconds = time.monotonic() - begun
    await until(
        lambda: all(subscriber.account.offset >= publisher.stored[subscriber.room] for subscriber in subscribers),
        "every message for everybody",
    )
    for task in running:
        task.cancel()
    await asyncio.wait(running)
    return report(subscribers, publisher, options, seconds)


def report(subscribers: list[Subscriber], publisher: Publisher, options: argparse.Namespace, seconds: float) -> bool:
    """Print the figures; return whether they meet the goals."""
    first = min(subscriber.closed_at[0] for subscriber in subscribers)
    closed = [subscriber.closed_at[0] - first for subscriber in subscribers]
    back = quantiles([subscriber.back_at[0] - first for subscriber in subscribers], n=100)
    outage = quantiles([s.back_at[0] - s.closed_at[0] for s in subscribers], n=100)
    window = WORKERS * options.window
    tenths = [sum(k <= time * 10 / window < k + 1 for time in closed) for k in range(10)]
    wrong = [text for subscriber in subscribers for text in subscriber.faults()]
    ahead = sum(subscriber.account.offset != publisher.stored[subscriber.room] for subscriber in subscribers)
    print(f"{len(subscribers):,} subscribers, {sum(publisher.stored):,} messages; {seconds:.1f} s from SIGHUP on")
    print(f"closed over {max(closed):.2f} s of {WORKERS} windows of {options.window} s; by tenths of it: {tenths}")
    print(f"without a connection: median {outage[49]:.2f} s, p99 {outage[98]:.2f} s")
    print(f"all back after the first close: median {back[49]:.2f} s, p99 {back[98]:.2f} s")
    print(f"lost, doubled or out of order: {len(wrong) + ahead}", *wrong[:5], sep="\n  ")
    return not wrong and not ahead and back[98] <= window + GOAL_SECONDS


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscribers", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=1000, help="messages a second")
    parser.add_argument("--window", type=int, default=5, help="DRAIN_SECONDS")
    options = parser.parse_args()
    raise_file_limit()
    with PostgresServer() as postgres:
        asyncio.run(migrate(postgres.url()))
        env: dict[str, Any] = {
            "DATABASE_URL": postgres.url(),
            "WEB_CONCURRENCY": str(WORKERS),
            "DRAIN_SECONDS": str(options.window),
            "LOG_LEVEL": "warning",
        }
        with Server(channels=CHANNELS, env=env) as server:
            well = uvloop.run(measure(server, options))
            code = server.stop(timeout=60)
            print(f"exit code of the server: {code}")
    return 0 if well and code == 0 else 1


if __name__ == "__main__":
    sys.exit(main())

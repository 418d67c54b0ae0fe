"""A rolling restart under load: two workers on PostgreSQL are replaced while subscribers resume; see README.md here.

Ends with 1 if a subscriber misses a message, gets one twice, or is back later than the goal.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Sequence
from statistics import quantiles
from typing import Any, cast

import uvloop
from httpx import AsyncClient, Limits, TransportError

from app.bus.postgres import migrate
from benchmarks.peers.machine import raise_file_limit
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

GOAL_SECONDS = 2.0
"""Beyond the window, within which 99 % must be back."""

_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10
_RESTARTING = 1012
_SHORT_HEADER, _LONG_HEADER, _LENGTH_FOLLOWS = 2, 4, 126


class Subscriber(asyncio.Protocol):
    """One WebSocket that resumes: the smallest client that checks its messages."""

    def __init__(self, port: int, room: int) -> None:
        self.port, self.room = port, room
        self.position = "earliest"
        self.offset = 0
        self.wrong: list[str] = []
        self.closed_at: list[float] = []
        self.back_at: list[float] = []
        """When the first message came after each reconnection."""
        self.attempt = 0
        self.expected = False
        self.buffer = bytearray()
        self.transport: asyncio.Transport

    async def connect(self) -> None:
        """Connect, again and again with longer pauses until it works."""
        while True:
            try:
                await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self.port)
            except OSError:
                await self.pause()
            else:
                return

    async def pause(self) -> None:
        """Wait as the clients do."""
        await asyncio.sleep(random.uniform(0, min(5, 0.1 * 2**self.attempt)))  # noqa: S311 — it spreads load
        self.attempt += 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the handshake."""
        self.transport, self.buffer = cast("asyncio.Transport", transport), bytearray()
        key = base64.b64encode(os.urandom(16)).decode()
        self.transport.write(
            f"GET /bench.{self.room}?since={self.position} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Protocol: abide.v1\r\n\r\n".encode()
        )
        self.expected = True

    def data_received(self, data: bytes) -> None:
        """Read frames."""
        self.buffer += data
        if self.expected:
            head, end, rest = self.buffer.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.transport.close()
                return
            self.expected, self.buffer = False, bytearray(rest)
        while (frame := self.next_frame()) is not None:
            self.take(*frame)

    def next_frame(self) -> tuple[int, bytes] | None:
        """Return the opcode and payload of the next frame, if it is complete."""
        buffer = self.buffer
        if len(buffer) < _SHORT_HEADER or (buffer[1] == _LENGTH_FOLLOWS and len(buffer) < _LONG_HEADER):
            return None
        size, at = buffer[1], _SHORT_HEADER
        if size == _LENGTH_FOLLOWS:
            size, at = struct.unpack_from(">H", buffer, _SHORT_HEADER)[0], _LONG_HEADER
        if len(buffer) < at + size:
            return None
        opcode, payload = buffer[0] & 15, bytes(buffer[at : at + size])
        del buffer[: at + size]
        return opcode, payload

    def take(self, opcode: int, payload: bytes) -> None:
        """Handle one frame."""
        if opcode == _TEXT:
            frame = json.loads(payload)
            if frame["type"] == "message":
                self.message(frame["position"])
            elif frame["type"] == "gap":
                self.wrong.append(f"a gap: {frame}")
        elif opcode == _PING:
            self.transport.write(b"\x8a\x80\0\0\0\0")
        elif opcode == _CLOSE:
            (code,) = struct.unpack_from(">H", payload)
            if code != _RESTARTING:
                self.wrong.append(f"closed with {code}")
            self.transport.write(b"\x88\x82\0\0\0\0" + payload[:2])
            self.transport.close()

    def message(self, position: str) -> None:
        """Check that it is the next one."""
        offset = int(position.partition(":")[2])
        if offset != self.offset + 1:
            self.wrong.append(f"{offset} after {self.offset}")
        self.position, self.offset = position, offset
        if len(self.back_at) < len(self.closed_at):
            self.back_at.append(time.monotonic())
            self.attempt = 0

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 — asyncio's signature
        """Come back."""
        if len(self.closed_at) == len(self.back_at):
            self.closed_at.append(time.monotonic())
        self.again = asyncio.ensure_future(self.come_back())

    async def come_back(self) -> None:
        """Connect after a pause."""
        await self.pause()
        await self.connect()


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
    for start in range(0, len(subscribers), 50):
        await asyncio.gather(*(subscriber.connect() for subscriber in subscribers[start : start + 50]))
    publisher = Publisher(server.url, options.rate)
    publishing = asyncio.create_task(publisher.run())
    await asyncio.sleep(3)
    begun = time.monotonic()
    server.send_signal(signal.SIGHUP)
    await until(
        lambda: all(subscriber.back_at for subscriber in subscribers), "everybody back", seconds=options.window + 30
    )
    await asyncio.sleep(2)
    publisher.going_on = False
    await publishing
    seconds = time.monotonic() - begun
    await until(
        lambda: all(subscriber.offset >= publisher.stored[subscriber.room] for subscriber in subscribers),
        "every message for everybody",
    )
    return report(subscribers, publisher, options, seconds)


def report(subscribers: list[Subscriber], publisher: Publisher, options: argparse.Namespace, seconds: float) -> bool:
    """Print the figures; return whether they meet the goals."""
    first = min(subscriber.closed_at[0] for subscriber in subscribers)
    closed = [subscriber.closed_at[0] - first for subscriber in subscribers]
    back = quantiles([subscriber.back_at[0] - first for subscriber in subscribers], n=100)
    outage = quantiles([s.back_at[0] - s.closed_at[0] for s in subscribers], n=100)
    tenths = [sum(k <= time * 10 / options.window < k + 1 for time in closed) for k in range(10)]
    wrong = [text for subscriber in subscribers for text in subscriber.wrong]
    ahead = sum(subscriber.offset != publisher.stored[subscriber.room] for subscriber in subscribers)
    print(f"{len(subscribers):,} subscribers, {sum(publisher.stored):,} messages; {seconds:.1f} s from SIGHUP on")
    print(f"closed over {max(closed):.2f} s of a window of {options.window} s; by tenths of it: {tenths}")
    print(f"without a connection: median {outage[49]:.2f} s, p99 {outage[98]:.2f} s")
    print(f"all back after the first close: median {back[49]:.2f} s, p99 {back[98]:.2f} s")
    print(f"lost, doubled or out of order: {len(wrong) + ahead}", *wrong[:5], sep="\n  ")
    return not wrong and not ahead and back[98] <= options.window + GOAL_SECONDS


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
            "WEB_CONCURRENCY": "2",
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

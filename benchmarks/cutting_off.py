"""How fast SQL cuts off one subject among thousands, on two servers of two workers. See README.md here.

Run it with ``python -m benchmarks.cutting_off``. It prints its report, and exits with 1 if a goal is missed, or if any
but the right connections are closed.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Sequence

import asyncpg

from app.access.auth_settings import TokenSettings
from app.access.tokens import sign
from tests.support.load_client import WebSocket
from tests.support.postgres import PostgresServer
from tests.support.server import Server

MOST_SECONDS = 1.0
"""The goal for the 99th percentile, from the commit to the close."""

_SECRET = "s" * 32
_CHANNELS = """\
backend: ${DATABASE_URL}
auth: {tokens: {secret: %s}}
channels:
  "user.{id}": {subscribe: {claim: sub}}
"""
_AT_ONCE = 100
_QUIET_SECONDS = 2.0
_UNAUTHORISED = 4401


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cutting_off", description="Cutting off a subject.")
    parser.add_argument("--subscribers", type=int, default=10_000)
    parser.add_argument("--of-subject", type=int, default=1000)
    options = parser.parse_args()
    with PostgresServer() as postgres:
        env = {"DATABASE_URL": postgres.url(), "WEB_CONCURRENCY": "2", "LOG_LEVEL": "warning"}
        channels = _CHANNELS % _SECRET
        with Server(channels=channels, env=env) as one, Server(channels=channels, env=env) as other:
            ports = [one.port, other.port]
            return asyncio.run(_measure(ports, postgres.url(), options.subscribers, options.of_subject))


async def _measure(ports: Sequence[int], database: str, count: int, share: int) -> int:
    sockets = await _open(ports, ["42"] * share + [str(1000 + number) for number in range(count - share)])
    sql = await asyncpg.connect(database)
    transaction = sql.transaction()
    await transaction.start()
    await sql.execute("SELECT abide.revoke('42'), abide.revoke('1000')")
    await transaction.rollback()
    await asyncio.sleep(_QUIET_SECONDS)
    rolled_back = sum(socket.over.done() for _, socket in sockets)
    began = time.monotonic()
    await sql.execute("SELECT abide.revoke('42')")
    committed = time.monotonic()
    await asyncio.sleep(_QUIET_SECONDS + MOST_SECONDS)
    await sql.close()
    right = [socket for subject, socket in sockets if subject == "42" and socket.code == _UNAUTHORISED]
    wrong = sum(socket.over.done() for _, socket in sockets) - len(right)
    seconds = sorted(socket.over_at - committed for socket in right if socket.over_at is not None)
    print(f"{count:,} subscribers of two servers of two workers, {share:,} of them of one subject")
    print(f"rolled back: {rolled_back} closed; committed in {(committed - began) * 1000:.1f} ms")
    print(f"revoked: {len(right):,} of {share:,} closed with {_UNAUTHORISED}, {wrong} others")
    p99 = seconds[int(len(seconds) * 0.99)] if seconds else float("inf")
    median = statistics.median(seconds) if seconds else float("inf")
    is_met = (rolled_back, len(right), wrong) == (0, share, 0) and p99 <= MOST_SECONDS
    print(f"from the commit: median {median * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms: {'met' if is_met else 'missed'}")
    return int(not is_met)


async def _open(ports: Sequence[int], subjects: Sequence[str]) -> list[tuple[str, WebSocket]]:
    room = asyncio.Semaphore(_AT_ONCE)
    tokens = {subject: _token(subject) for subject in set(subjects)}

    async def one(number: int, subject: str) -> tuple[str, WebSocket]:
        socket = WebSocket(f"/user.{subject}", lambda _: None, f"Authorization: Bearer {tokens[subject]}")
        async with room:
            host = f"127.0.0.{1 + number % 8}"  # or one address would run out of ports
            await socket.connect(ports[number % 2], source=host)
            await socket.opened
        return subject, socket

    return await asyncio.gather(*(one(number, subject) for number, subject in enumerate(subjects)))


def _token(subject: str) -> str:
    now = int(time.time()) - 1
    return sign(TokenSettings(secrets=(_SECRET.encode(),)), {"sub": subject, "iat": now, "exp": now + 3600})


if __name__ == "__main__":
    sys.exit(main())

"""A rolling restart under load: workers are replaced, and nobody misses anything."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread

from app import client
from tests.conftest import ServerFactory
from tests.support.readers import until
from tests.support.server import Server

CHANNELS = """\
backend: ${DATABASE_URL}
channels:
  news: {publish: anyone, history: {size: 100000}}
"""
SUBSCRIBERS = 100
WINDOW = 2
"""Seconds in which each worker drains: first one, then the other."""


class Subscriber:
    """The client, and what it is told."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.offsets: list[int] = []
        self.data: list[int] = []
        self.closed_at: list[float] = []
        self.other: list[object] = []
        """Gaps, and notices that are not of a restart."""

    async def run(self) -> None:
        messages = client.subscribe(self.url, "news", since="earliest", on_gap=self.other.append, on_notice=self.notice)
        async for message in messages:
            self.offsets.append(int(message.position.partition(":")[2]))
            self.data.append(message.data)

    def notice(self, text: str) -> None:
        if "ended with 1012 (the server restarts)" in text:
            self.closed_at.append(asyncio.get_running_loop().time())
        elif not text.startswith("connected again"):
            self.other.append(text)


@asynccontextmanager
async def publishing(url: str) -> AsyncIterator[list[int]]:
    """Publish numbers, some at a time, until the context ends; yields those that are stored."""
    stored: list[int] = []
    going_on = True

    async def publish(number: int) -> None:
        while going_on:
            await client.publish(url, "news", number)
            stored.append(number)
            number += 4
            await asyncio.sleep(0.04)

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(publish(number))
        try:
            yield stored
        finally:
            going_on = False


def workers(server: Server, event: str) -> set[int]:
    """Return the processes that have logged an event."""
    return {line["pid"] for line in list(server.log) if line["event"].startswith(event)}


async def test_a_rolling_restart_loses_nothing(server_factory: ServerFactory, database_url: str) -> None:
    """Subscribers that resume get every message once, in order, across SIGHUP, and are not all closed at once."""
    env = {"DATABASE_URL": database_url, "WEB_CONCURRENCY": "2", "DRAIN_SECONDS": str(WINDOW)}
    server = await anyio.to_thread.run_sync(lambda: server_factory(channels=CHANNELS, env=env))
    await until(lambda: len(workers(server, "Application startup complete")) == 2, "a start of both workers")
    subscribers = [Subscriber(server.url) for _ in range(SUBSCRIBERS)]
    running = [asyncio.create_task(subscriber.run()) for subscriber in subscribers]
    async with publishing(server.url) as stored:
        await until(lambda: all(subscriber.data for subscriber in subscribers), "a message for everybody")
        server.send_signal(signal.SIGHUP)
        await until(lambda: len(workers(server, "Finished server process")) == 2, "an end of the old workers")
        count = max(len(stored), 100)
        await until(lambda: len(stored) > count + 20, "more messages")
    await until(
        lambda: all(len(subscriber.data) >= len(stored) for subscriber in subscribers), "every message for everybody"
    )
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)

    assert [subscriber.other for subscriber in subscribers] == [[]] * SUBSCRIBERS
    for subscriber in subscribers:
        assert subscriber.offsets == list(range(1, len(stored) + 1))
        assert sorted(subscriber.data) == sorted(stored)
    # Who comes back to the other old worker, which is replaced later, is closed by that one too.
    assert {len(subscriber.closed_at) for subscriber in subscribers} <= {1, 2}
    closed_at = sorted(subscriber.closed_at[0] for subscriber in subscribers)
    assert closed_at[-1] - closed_at[0] > 2 * WINDOW * 0.7
    assert max(sum(begin <= time < begin + WINDOW / 5 for time in closed_at) for begin in closed_at) <= SUBSCRIBERS / 3
    assert await anyio.to_thread.run_sync(server.stop) == 0
    assert "error" not in {line["level"] for line in server.log}

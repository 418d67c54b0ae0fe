"""Redis that restarts, stalls, closes connections or takes no writes, while messages are published."""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial

import anyio.to_thread

from app.core.errors import OutcomeUnknownError
from app.core.message import Published, Record
from tests.bus.redis.conftest import streams
from tests.support.readers import Ledger, Worker, until
from tests.support.valkey import DURABLE, ValkeyServer

CHANNELS = ["a", "b", "c"]


class Crowd:
    """Publishers that send 1,000 messages a second together, some with keys."""

    def __init__(self, ledger: Ledger, workers: list[Worker]) -> None:
        self.ledger, self.workers = ledger, workers
        self.stopping = asyncio.Event()
        self.published = 0

    async def publish(self, number: int) -> None:
        """Publish about 50 messages a second until the end."""
        worker, serial = self.workers[number % len(self.workers)], 0
        while not self.stopping.is_set():
            serial += 1
            channel, data = self.ledger.random.choice(CHANNELS), self.ledger.data(self.ledger.random.choice([40, 9000]))
            if number % 2:
                await self.ledger.insist(worker, Record(channel, data, f"{number}-{serial}"))
                self.published += 1
            else:
                (outcome,) = await self.ledger.publish(worker, [Record(channel, data)])
                assert isinstance(outcome, Published | OutcomeUnknownError), repr(outcome)
                self.published += isinstance(outcome, Published)
            await asyncio.sleep(0.02)

    async def more(self, count: int) -> None:
        """Return when so many more were acknowledged."""
        goal = self.published + count
        await until(lambda: self.published >= goal, "publishers go on")


async def test_restarts_and_killed_connections_under_load_lose_and_double_nothing() -> None:
    """Workers whose server is killed twice, and whose connections are closed 50 times, lose and double nothing."""
    ledger = Ledger(41)
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(ValkeyServer(DURABLE))
        both = [await stack.enter_async_context(streams(server.url(), name)) for name in ("w0", "w1")]
        readers = [reader for it in both for reader in await it.follow(*CHANNELS)]
        crowd = Crowd(ledger, both)
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(crowd.publish(number))
            await crowd.more(200)
            for kill in (True, False):
                await anyio.to_thread.run_sync(partial(server.restart, kill=kill))
                ledger.note("restarted")
                await crowd.more(300)
            killed = 0
            while killed < 50:
                killed += await anyio.to_thread.run_sync(server.kill_connections)
                ledger.note(f"killed {killed}")
                await crowd.more(50)
            crowd.stopping.set()
        await ledger.check_log(both[0].backend, readers)
    assert ledger.refused == 0


async def test_a_dead_subscription_is_found_in_seconds(server: ValkeyServer) -> None:
    """Worker whose subscription hears nothing, without an end of the connection, has the message within seconds."""
    async with streams(server.url()) as one, streams(server.url(), "other") as other:
        (reader,) = await one.follow("a")
        await one.publish("a", "1")
        await reader.until(1)
        for line in str(server.run("CLIENT", "LIST", "TYPE", "pubsub")).splitlines():
            assert line
        server.run("CONFIG", "SET", "client-output-buffer-limit", "pubsub 1 1 1")
        began = time.monotonic()
        await other.publish("a", "2")
        assert await reader.until(2) == [b"1", b"2"]
        assert time.monotonic() - began < 10
        server.run("CONFIG", "SET", "client-output-buffer-limit", "pubsub 32mb 8mb 60")

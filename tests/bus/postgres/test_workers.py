"""The product as it runs: gunicorn workers on one database."""

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import anyio.to_thread
import asyncpg
import httpx
import websockets

from tests.conftest import ServerFactory
from tests.support.readers import kill, until
from tests.support.server import LogLine, Server

CHANNELS = """\
backend: ${DATABASE_URL}
channels:
  news: {publish: anyone}
"""


async def logged(server: Server, event: str, count: int) -> list[LogLine]:
    """Return the lines of an event once there are so many."""
    lines: list[LogLine] = []

    def found() -> bool:
        lines[:] = [line for line in list(server.log) if line["event"] == event]
        return len(lines) >= count

    await until(found, f"{count} lines {event!r}")
    return lines


@contextlib.asynccontextmanager
async def stopped(worker: int) -> AsyncIterator[None]:
    """Stop a worker meanwhile, so that whoever connects is another one's."""
    os.kill(worker, signal.SIGSTOP)
    await until(lambda: Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] == "T", "a stop")
    yield
    os.kill(worker, signal.SIGCONT)


class Subscriber:
    """A WebSocket that keeps what it is sent until it ends."""

    def __init__(self) -> None:
        self.received: list[object] = []

    async def run(self, url: str, ready: asyncio.Event) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            async with websockets.connect(url) as websocket:
                ready.set()
                while True:
                    self.received.append(json.loads(await websocket.recv()))


async def subscribe(server: Server, group: asyncio.TaskGroup) -> tuple[Subscriber, asyncio.Task[None]]:
    subscriber, ready = Subscriber(), asyncio.Event()
    task = group.create_task(subscriber.run(f"{server.ws_url}/news", ready))
    await ready.wait()
    return subscriber, task


async def publish(server: Server, number: int) -> dict[int, object]:
    """Publish 25 messages, each until it is acknowledged; return them by offset."""
    acknowledged: dict[int, object] = {}
    async with httpx.AsyncClient(base_url=server.url) as http:  # a connection, and so a worker, of its own
        for serial in range(25):
            message = f"{number} {serial} ".ljust(9000 if serial % 5 == 0 else 20, ".")
            key = {"Idempotency-Key": f"{number}-{serial}"}
            while (answer := await http.post("/push/news", json=message, headers=key)).status_code == 503:
                pass
            acknowledged[answer.raise_for_status().json()["offset"]] = message
    return acknowledged


async def test_subscribers_of_every_worker_get_what_any_worker_took(
    server_factory: ServerFactory, url: str, sql: asyncpg.Connection
) -> None:
    """Subscribers on two gunicorn workers get every message that either took, and SQL's, though LISTEN is killed."""
    env = {"WEB_CONCURRENCY": "2", "DATABASE_URL": url}
    server = await anyio.to_thread.run_sync(lambda: server_factory(channels=CHANNELS, env=env))
    await logged(server, "listening", 2)
    async with asyncio.TaskGroup() as group:
        pids = [line["pid"] for line in await logged(server, "serving", 2)]
        subscribers: list[tuple[Subscriber, asyncio.Task[None]]] = []
        for pid in pids:
            async with stopped(pid):
                subscribers += [await subscribe(server, group) for _ in range(8)]
        publishing = [group.create_task(publish(server, number)) for number in range(12)]
        for number in range(4):
            await kill(sql, "abide listen", "abide work")
            await sql.execute("SELECT abide.publish('news', to_jsonb($1::text))", f"sql {number}")
            await logged(server, "listening", 2 * (number + 2))
        acknowledged = {offset: message for task in publishing for offset, message in (await task).items()}
        await until(lambda: all(len(it.received) >= 304 for it, _ in subscribers), "everybody has everything")
        # The subscribers of a worker that is killed end, and only they: that shows whose they were.
        os.kill(pids[0], signal.SIGKILL)
        await asyncio.wait([task for _, task in subscribers[8:]])
        assert not any(task.done() for _, task in subscribers[:8])
        await anyio.to_thread.run_sync(server.stop)
    assert len(acknowledged) == 300
    expected = Counter([*map(str, acknowledged.values()), *(f"sql {number}" for number in range(4))])
    for it, _ in subscribers:
        assert Counter(map(str, it.received)) == expected
        assert all(it.received[offset - 1] == message for offset, message in acknowledged.items())

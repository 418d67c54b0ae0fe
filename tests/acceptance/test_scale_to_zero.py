"""A server that is stopped while nobody needs it, and what a subscriber finds when it runs again."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import AsyncIterator

import anyio.to_thread
import httpx
import pytest

from app.client import Gap, Message, subscribe
from tests.support.postgres import PostgresServer
from tests.support.processes import free_port
from tests.support.server import Server

CHANNELS = "backend: ${DATABASE_URL:-memory://}\nchannels: {orders: {publish: anyone}}\n"


@contextlib.asynccontextmanager
async def serving(port: int, database: str) -> AsyncIterator[Server]:
    """Run one life of the server, as a platform does: ended by SIGTERM, and cleanly."""
    server = Server(channels=CHANNELS, env={"PORT": str(port), "DATABASE_URL": database}, ready_path="/health/ready")
    server.port = port
    await anyio.to_thread.run_sync(server.start)
    try:
        yield server
        server.send_signal(signal.SIGTERM)
        assert await anyio.to_thread.run_sync(server.wait) == 0
    finally:
        if server in Server.running:
            server.kill()


async def push(url: str, number: int) -> None:
    async with httpx.AsyncClient(base_url=url) as http:
        (await http.post("/push/orders", json=number)).raise_for_status()


async def take(messages: AsyncIterator[Message], count: int) -> list[int]:
    return [(await anext(messages)).data for _ in range(count)]


async def test_what_sql_publishes_while_no_server_runs_is_delivered_later(
    postgres: PostgresServer, database_url: str
) -> None:
    """Subscriber that stays gets what SQL published while no server ran, once and in order, before what comes after."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    name = database_url.rpartition("/")[2]
    gaps: list[Gap] = []
    async with contextlib.aclosing(subscribe(url, "orders", since="earliest", on_gap=gaps.append)) as messages:
        async with serving(port, database_url):
            await push(url, 1)
            assert await take(messages, 1) == [1]
        for number in (2, 3, 4):
            await postgres.execute("SELECT abide.publish('orders', $1::jsonb)", json.dumps(number), database=name)
        with pytest.raises(httpx.ConnectError):
            await push(url, 0)
        async with serving(port, database_url):
            assert await take(messages, 3) == [2, 3, 4]
            await push(url, 5)
            assert await take(messages, 1) == [5]
    assert gaps == []


async def test_a_subscriber_that_returns_after_the_server_misses_nothing(
    postgres: PostgresServer, database_url: str
) -> None:
    """Subscriber that left with its position before the stop finds all that came since, from either side."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with serving(port, database_url):
        await push(url, 10)
        async with contextlib.aclosing(subscribe(url, "orders", last=1)) as messages:
            position = (await anext(messages)).position
    await postgres.execute("SELECT abide.publish('orders', '11')", database=database_url.rpartition("/")[2])
    back = contextlib.aclosing(subscribe(url, "orders", since=position))
    async with serving(port, database_url), back as messages:
        assert await take(messages, 1) == [11]
        await push(url, 12)
        assert await take(messages, 1) == [12]


async def test_memory_forgets_its_log_with_the_server() -> None:
    """Subscriber on memory:// is told of a gap, because a stopped server takes its log with it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    gaps: list[Gap] = []
    async with contextlib.aclosing(subscribe(url, "orders", since="earliest", on_gap=gaps.append)) as messages:
        async with serving(port, ""):
            await push(url, 1)
            assert await take(messages, 1) == [1]
        async with serving(port, ""):
            await push(url, 2)
            assert await take(messages, 1) == [2]
    assert [gap.reason for gap in gaps] == ["epoch"]

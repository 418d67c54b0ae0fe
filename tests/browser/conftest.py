"""A tab for each test, and one server for the tests of the console."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from app.bus.postgres import migrate
from tests.support.chromium import Chromium, Page
from tests.support.postgres import PostgresServer
from tests.support.proxy import FaultProxy
from tests.support.server import Server

CHANNELS = """
backend: ${DATABASE_URL:-memory://}
channels:
  lebowski: {publish: operators}
  orders: {publish: anyone}
  quiet: {publish: anyone}
  "chat.{room}": {publish: anyone}
"""


@pytest.fixture
def page(chromium: Chromium) -> Iterator[Page]:
    with chromium.page() as page:
        yield page


@pytest.fixture(scope="session")
def server(postgres: PostgresServer) -> Iterator[Server]:
    """Start two workers on a database of their own; both have begun to serve."""
    asyncio.run(create_database(postgres, "app"))
    env = {"DATABASE_URL": postgres.url("app"), "WEB_CONCURRENCY": "2"}
    with Server(channels=CHANNELS, env=env, ready_path="/health/ready") as server:
        first = server.wait_log(lambda line: line["event"] == "serving")["pid"]
        server.wait_log(lambda line: line["event"] == "serving" and line["pid"] != first)
        yield server


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture
def network(server: Server, portal: BlockingPortal) -> Iterator[FaultProxy]:
    """Return the way to the server of a test's file, which a test can break."""
    with portal.wrap_async_context_manager(FaultProxy("127.0.0.1", server.port)) as proxy:
        yield proxy


async def create_database(postgres: PostgresServer, name: str) -> None:
    """Create a database with the schema; pictures show its name."""
    connection = await asyncpg.connect(postgres.url("postgres"))
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    await migrate(postgres.url(name))

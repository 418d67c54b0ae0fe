"""A real PostgreSQL for the tests of the bus, and a fresh database for each of them."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from app.bus.postgres import migrate
from tests.support.postgres import PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def template(postgres: PostgresServer) -> str:
    """Make a migrated database to copy."""
    name = asyncio.run(postgres.create_database())
    asyncio.run(migrate(postgres.url(name)))
    return name


@pytest.fixture
async def database(postgres: PostgresServer, template: str) -> AsyncIterator[str]:
    name = await postgres.create_database(template)
    yield name
    await postgres.drop_database(name)

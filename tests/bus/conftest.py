"""A fresh database for each test of the bus."""

from collections.abc import AsyncIterator

import pytest

from tests.support.postgres import PostgresServer


@pytest.fixture
async def database(postgres: PostgresServer, template: str) -> AsyncIterator[str]:
    name = await postgres.create_database(template)
    yield name
    await postgres.drop_database(name)

"""The address of a test's database, and a connection of its own to it."""

import asyncio
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest

from tests.support.postgres import PostgresServer


@pytest.fixture
def url(postgres: PostgresServer, database: str) -> str:
    return postgres.url(database)


@pytest.fixture
async def sql(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect beside the server, as an operator or an application does."""
    connection = await asyncpg.connect(url)
    yield connection
    connection.terminate()


@pytest.fixture
async def statements(postgres: PostgresServer, database: str) -> Callable[[str], int]:
    """Give a function that returns how many statements with a text have been sent to the database since.

    The server logs those of every session that begins later.
    """
    await postgres.execute(f"ALTER DATABASE {database} SET log_statement = 'all'")
    begin = postgres.log.stat().st_size

    def count(text: str) -> int:
        with postgres.log.open("rb") as log:
            log.seek(begin)
            return log.read().count(text.encode())

    return count


@pytest.fixture
async def unretrieved() -> AsyncIterator[None]:
    """Let pass what asyncpg leaves behind of a connection attempt that was cancelled before the link broke.

    It is the exception of a future that nobody waits for any more: a line in a log, and here an error.
    """
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        if str(context.get("exception")) != "unexpected connection_lost() call":
            (before or asyncio.BaseEventLoop.default_exception_handler)(loop, context)  # type: ignore[arg-type]

    loop.set_exception_handler(handle)
    yield
    loop.set_exception_handler(before)

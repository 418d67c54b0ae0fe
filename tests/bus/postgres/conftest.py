"""The address of a test's database, and a connection of its own to it."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest

from app.bus.postgres.listen import hearing, listener
from tests.support.postgres import PostgresServer

NEVER = 3600.0
"""Seconds that no test waits for."""


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
async def other(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect once more: somebody else."""
    connection = await asyncpg.connect(url)
    yield connection
    connection.terminate()


@pytest.fixture
async def role(postgres: PostgresServer) -> AsyncIterator[str]:
    """Make a role that may do nothing but log in."""
    name = f"role_{secrets.token_hex(6)}"
    await postgres.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    for database in [row[0] for row in await postgres.execute("SELECT datname FROM pg_database WHERE datallowconn")]:
        await postgres.execute(f"DROP OWNED BY {name}", database=database)
    await postgres.execute(f"DROP ROLE {name}")


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
def no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch off the look at the heads that would heal everything after a moment, so that what is heard has to do.

    No hint is dropped either: a machine that is busy with other things takes too long for the next one at any time.
    """
    monkeypatch.setattr(listener, "_POLL_SECONDS", NEVER)
    monkeypatch.setattr(hearing, "_HINT_SECONDS", NEVER)
    monkeypatch.setattr(hearing, "_MESSAGE_SECONDS", NEVER)


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

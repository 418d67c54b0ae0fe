"""What happens to a whole server, on servers of the tests' own: read-only, standbys that are missing, full queues."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Self

import anyio.to_thread
import asyncpg
import pytest

from app.bus.postgres import migrate
from app.core.errors import UnavailableError
from app.core.message import Published
from tests.bus.postgres.test_outcomes import ready_again, stays_bad
from tests.support.postgres import PostgresServer, wheel_binaries
from tests.support.readers import says, worker

pytestmark = pytest.mark.usefixtures("unretrieved")


@contextlib.asynccontextmanager
async def server(binaries: str = "") -> AsyncIterator[PostgresServer]:
    """Start a server of the test's own, with a schema."""
    own = PostgresServer(wheel_binaries() if binaries else None)
    await anyio.to_thread.run_sync(own.start)
    try:
        await migrate(own.url())
        yield own
    finally:
        await anyio.to_thread.run_sync(own.close)


async def alter(own: PostgresServer, setting: str) -> None:
    """Change a setting of the server, for sessions that are there, too."""
    await own.execute(f"ALTER SYSTEM SET {setting}")
    await own.execute("SELECT pg_reload_conf()")


@pytest.fixture
async def mortal() -> AsyncIterator[PostgresServer]:
    async with server() as own:
        yield own


async def test_a_server_that_takes_no_writes(mortal: PostgresServer) -> None:
    """Worker whose server is read-only for a time says so before anybody pushes, refuses at once, and is well again."""
    async with worker(mortal.url()) as it:
        (reader,) = await it.follow("a")
        await it.publish("a", "1")
        await alter(mortal, "default_transaction_read_only = on")
        assert "25006" in await says(it.backend, "read-only transaction", seconds=10)
        (refused,) = await it.publish("a", "2")
        assert type(refused) is UnavailableError
        await stays_bad(it, 2)
        connection = await asyncpg.connect(mortal.url())
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await connection.execute("SELECT pg_reload_conf()")
        await ready_again(it)
        assert isinstance((await it.publish("a", "3"))[0], Published)
        assert await reader.until(2) == [b"1", b"3"]
        connection.terminate()


async def test_a_standby_that_is_missing(mortal: PostgresServer) -> None:
    """Worker whose commits wait for a standby that never comes says so, answers in time, and leaves nothing behind."""
    async with worker(mortal.url()) as it:
        await it.publish("a", "1")
        await alter(mortal, "synchronous_standby_names = 'nobody'")
        await says(it.backend, "commit", seconds=10)
        began = time.monotonic()
        answers = await asyncio.gather(*(it.publish("a", str(number)) for number in range(5)))
        assert time.monotonic() - began < 6
        assert not any(isinstance(outcome, Published) for (outcome,) in answers)
        await stays_bad(it, 2)
        connection = await asyncpg.connect(mortal.url())
        ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'abide%'"
        assert await connection.fetchval(ours) <= 5
        connection.terminate()
        await alter(mortal, "synchronous_standby_names = ''")
        await ready_again(it)


async def test_a_queue_of_notifications_that_somebody_fills() -> None:
    """Worker tells of a queue that a session keeps full, and empties it when that session has left."""
    async with server("wheel") as own:
        await own.execute("ALTER SYSTEM SET max_notify_queue_pages = 64")
        await anyio.to_thread.run_sync(own.restart)
        async with worker(own.url()) as it:
            (reader,) = await it.follow("a")
            await it.publish("a", "1")
            foreign, noisy = await asyncpg.connect(own.url()), await asyncpg.connect(own.url())
            await foreign.execute("LISTEN whatever")
            await foreign.execute("BEGIN; SELECT 1")
            fill = "SELECT pg_notify('whatever', repeat('x', 7000) || g) FROM generate_series(1, 9) g"
            with contextlib.suppress(asyncpg.ProgramLimitExceededError):
                while True:
                    await noisy.execute(fill)
            await says(it.backend, "NOTIFY queue", seconds=10)
            assert isinstance((await it.publish("a", "2"))[0], Published)
            assert await reader.until(2) == [b"1", b"2"]
            await stays_bad(it, 2)
            foreign.terminate()
            await ready_again(it)
            await noisy.execute("SELECT abide.publish('a', '3')")
            assert await reader.until(3) == [b"1", b"2", b"3"]
            noisy.terminate()


class Name:
    """The name of a database, which leads to one server or another; connections that are open stay where they are."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self.port = 0
        self.target = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        with contextlib.suppress(OSError):
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass_on(reader, back))
                group.create_task(_pass_on(there, writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()


async def test_a_name_that_moves_to_another_server(mortal: PostgresServer) -> None:
    """Worker whose server was demoted, and stays, goes to the one that the name leads to, and reads nothing old."""
    async with server() as promoted, Name() as name:
        epoch = (await mortal.execute("SELECT epoch FROM abide.installation"))[0][0]
        await promoted.execute("UPDATE abide.installation SET epoch = $1", epoch)
        name.target = mortal.port
        async with worker(f"postgresql://postgres@127.0.0.1:{name.port}/postgres") as it:
            await it.publish("a", "1")
            assert (await it.backend.head("a")) == 1
            await alter(mortal, "default_transaction_read_only = on")
            assert not isinstance((await it.publish("a", "2"))[0], Published)
            name.target = promoted.port
            await ready_again(it, seconds=10)
            outcomes = await it.publish("a", "3", "4")
            assert all(isinstance(outcome, Published) for outcome in outcomes)
            assert (await promoted.execute("SELECT head FROM abide.head")) == [(2,)]
            assert (await it.backend.head("a")) == 2

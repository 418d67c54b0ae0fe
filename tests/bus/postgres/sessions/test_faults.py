"""What people read of a database that cannot be used: what is wrong, and what to do, in one line."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator

import asyncpg
import pytest

from app.bus.postgres import migrate
from app.bus.postgres.sessions.dsn import parse
from app.bus.postgres.sessions.faults import explain
from app.bus.postgres.sessions.session import close, connect
from app.core.errors import UnavailableError
from app.core.message import Published
from tests.support.pgbouncer import PgBouncer
from tests.support.postgres import PostgresServer
from tests.support.processes import free_port
from tests.support.readers import says, worker


def of(kind: type[asyncpg.PostgresError], words: str, context: str = "") -> asyncpg.PostgresError:
    error = kind(words)
    error.context = context
    return error


TABLE: list[tuple[BaseException, str]] = [
    (of(asyncpg.InvalidPasswordError, 'password authentication failed for user "me"'), "(28P01): correct the user or"),
    (of(asyncpg.InvalidAuthorizationSpecificationError, 'no pg_hba.conf entry for host "1.2.3.4", user "me", SSL off'),
        "sslmode=require"),
    (of(asyncpg.InvalidAuthorizationSpecificationError,
        'no pg_hba.conf entry for host "1.2.3.4", user "me", SSL encryption'), "list of addresses"),
    (of(asyncpg.InvalidAuthorizationSpecificationError, 'role "me" does not exist'), "(28000): correct the user"),
    (of(asyncpg.TooManyConnectionsError, "sorry, too many clients already"), "raise max_connections"),
    (of(asyncpg.CannotConnectNowError, "the database system is starting up"), "paused"),
    (of(asyncpg.InternalServerError, "Tenant or user not found"), "dashboard"),
    (of(asyncpg.ReadOnlySQLTransactionError, "cannot execute LISTEN during recovery"), "the address of the primary"),
    (of(asyncpg.ReadOnlySQLTransactionError, "cannot execute INSERT in a read-only transaction"),
        "default_transaction_read_only"),
    (of(asyncpg.InsufficientPrivilegeError, "permission denied for schema abide"), "GRANT USAGE ON SCHEMA abide"),
    (of(asyncpg.InsufficientPrivilegeError, "permission denied for table log"), "GRANT SELECT ON abide.log TO"),
    (of(asyncpg.InsufficientPrivilegeError, "permission denied for table log", "PL/pgSQL function abide.append_one(…)"),
        "GRANT ALL ON abide.log TO the owner"),
    (of(asyncpg.InsufficientPrivilegeError, "permission denied for function drain"), "ON FUNCTION abide.drain TO"),
    (of(asyncpg.InsufficientPrivilegeError, "must be owner of table log"), "run 'abide migrate'"),
    (of(asyncpg.DiskFullError, "could not extend file: No space left on device"), "the database's disk is full"),
    (of(asyncpg.InvalidSQLStatementNameError, 'prepared statement "x" does not exist'), "DIRECT_DATABASE_URL"),
    (of(asyncpg.ProtocolViolationError, "transaction blocks not allowed in statement pooling mode"), "pool_mode"),
    (socket.gaierror(-2, "Name or service not known"), "check the host in the URL"),
    (OSError(101, "Network is unreachable"), "IPv6"),
    (ssl.SSLCertVerificationError(1, "certificate verify failed: self signed"), "sslrootcert=system"),
    (ConnectionResetError(104, "Connection reset by peer"), "check that the database runs"),
    (TimeoutError(), "no answer in time"),
    (UnavailableError("what is told already"), "what is told already"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "said"), TABLE, ids=[str(error)[:40] for error, _ in TABLE])
def test_each_fault_is_one_line_that_says_what_to_do(error: BaseException, said: str) -> None:
    """Error of the database or the network has its own words and what to do about them in one line."""
    line = explain(error)
    assert said in line
    assert "\n" not in line
    assert len(line) < 330


@contextlib.asynccontextmanager
async def stranger(greeting: bytes) -> AsyncIterator[int]:
    """Serve something that is no PostgreSQL; yield its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(greeting)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def refused(url: str) -> str:
    """Return why a connection is refused."""
    with pytest.raises(UnavailableError) as caught:
        await close(await connect(parse(url), "abide test"))
    return str(caught.value)


async def test_an_address_that_leads_nowhere_is_explained(postgres: PostgresServer) -> None:
    """Address of a wrong port, another protocol, another database or a wrong file is told with what is wrong."""
    here = f"postgres://postgres@127.0.0.1:{postgres.port}/postgres"
    assert "nothing listens there" in await refused(f"postgres://127.0.0.1:{free_port()}/app")
    assert "CREATE DATABASE" in await refused(postgres.url("nowhere"))
    assert "sslmode=disable" in await refused(f"{here}?sslmode=require")
    assert "sslmode=disable" in await refused(f"{here}?sslmode=verify-full&sslrootcert=system")
    assert "sslrootcert=system" in await refused(f"{here}?sslmode=verify-full")
    assert "check sslrootcert" in await refused(f"{here}?sslmode=verify-full&sslrootcert=/nowhere.pem")
    assert "verify-full" in await refused(f"{here}?sslmode=verify-all")
    async with stranger(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        for mode in ("prefer", "disable", "require"):
            said = await refused(f"postgres://127.0.0.1:{port}/app?sslmode={mode}")
            assert "correct host and port" in said or "check that the database runs" in said


async def test_a_database_of_another_encoding_is_refused(postgres: PostgresServer) -> None:
    """Database of another encoding than UTF8 is refused by a server and by migrate, who name it and what to do."""
    for encoding in ("LATIN1", "SQL_ASCII"):
        name = f"encoded_{encoding.lower()}"
        await postgres.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
        with pytest.raises(UnavailableError, match=f"encoding is {encoding}, .* UTF8"):
            await migrate(postgres.url(name))
        async with worker(postgres.url(name), ready=False) as it:
            await says(it.backend, f"encoding is {encoding}")
        await postgres.drop_database(name)


async def test_a_pooler_is_named_at_every_look(postgres: PostgresServer, database: str) -> None:
    """Readiness names the pooler without DIRECT_DATABASE_URL at every look from the first connection on."""
    with PgBouncer(postgres) as pool:
        async with worker(pool.url(database), ready=False) as it:
            await says(it.backend, "DIRECT_DATABASE_URL", seconds=2)
            for _ in range(45):
                health = await it.backend.health()
                assert not health.ok
                assert "DIRECT_DATABASE_URL" in health.detail
                await asyncio.sleep(0.1)


async def test_a_pooler_of_statements_is_named(postgres: PostgresServer, database: str, url: str) -> None:
    """Readiness says what is wrong with PgBouncer in statement mode, which admits no transaction."""
    with PgBouncer(postgres, mode="statement") as pool:
        async with worker(pool.url(database), direct_url=url, ready=False) as it:
            await says(it.backend, "pool_mode = transaction", seconds=10)


async def test_a_pooler_of_sessions_is_enough(postgres: PostgresServer, database: str) -> None:
    """Worker behind PgBouncer in session mode, without DIRECT_DATABASE_URL, publishes and delivers, and is well."""
    with PgBouncer(postgres, mode="session") as pool:
        async with worker(pool.url(database)) as it:
            (reader,) = await it.follow("a")
            assert isinstance((await it.publish("a", "1"))[0], Published)
            assert await reader.until(1) == [b"1"]

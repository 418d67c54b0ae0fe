"""PgBouncer stands in front of a test's PostgreSQL as it does in front of a user's."""

import asyncpg
import pytest

from tests.support.pgbouncer import PgBouncer
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.anyio


async def test_pgbouncer_pools_transactions_and_ends_with_its_context() -> None:
    """PgBouncer pools transactions, lets many clients share few backends, and ends with its context."""
    with PostgresServer() as server:
        with PgBouncer(server) as bouncer:
            database = await server.create_database()
            clients = [await asyncpg.connect(bouncer.url(database), statement_cache_size=0) for _ in range(30)]
            backends = {await client.fetchval("SELECT pg_backend_pid()") for client in clients}
            assert len(backends) < len(clients)
            for client in clients:
                await client.close()
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await asyncpg.connect(bouncer.url(database))

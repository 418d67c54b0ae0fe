"""Readiness is what pushes and deliveries come to: a real PostgreSQL refuses them, and the server says so, and why."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from typing import NamedTuple

import anyio.to_thread
import asyncpg
import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from app.bus.postgres import migrate
from tests.support.cluster import READ_ONLY, WRITABLE, Cluster
from tests.support.metrics import parse
from tests.support.processes import ROOT
from tests.support.readers import until
from tests.support.server import Server

CHANNELS = """\
backend: ${DATABASE_URL}
channels:
  news: {publish: anyone}
"""
ROLE = "abide_server"
WORKERS = 2

SECONDS = 6
"""Within which a push is answered, and what is so is said; 10 where nobody pushes."""

SLACK = 2
"""Seconds that a busy machine may take besides."""

SESSIONS = 5
"""That a worker may have at most."""

CONNECTIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'abide%' AND datname = current_database()"
)


class Place(NamedTuple):
    """A database, and a server on it whose role may do what docs/postgres.md says, and no more."""

    cluster: Cluster
    database: str
    server: Server

    async def connect(self) -> asyncpg.Connection:
        """Connect as an operator."""
        return await asyncpg.connect(self.cluster.primary.url(self.database))

    async def sql(self, statement: str) -> None:
        """Run a statement as an operator."""
        connection = await self.connect()
        await connection.execute(statement)
        await connection.close()


@pytest.fixture(scope="module")
def places() -> Iterator[list[Place]]:
    """Set up a server on the cluster's own database, which is on the small disk, and two on others."""
    with ExitStack() as stack:
        cluster = Cluster(stack, stack.enter_context(start_blocking_portal()))
        asyncio.run(cluster.sql(f"CREATE ROLE {ROLE} LOGIN"))
        databases = [cluster.database, *(asyncio.run(cluster.primary.create_database()) for _ in range(2))]
        places = []
        for database in databases:
            asyncio.run(migrate(cluster.primary.url(database)))
            asyncio.run(grant(cluster.primary.url(database)))
            env = {
                "DATABASE_URL": f"postgresql://{ROLE}@127.0.0.1:{cluster.servers.port}/{database}",
                "WEB_CONCURRENCY": str(WORKERS),
                "LOG_LEVEL": "warning",
            }
            server = stack.enter_context(Server(channels=CHANNELS, env=env, ready_path="/health/ready"))
            places.append(Place(cluster, database, server))
        yield places


async def grant(url: str) -> None:
    """Grant the server's role what the documentation says."""
    connection = await asyncpg.connect(url)
    await connection.execute(documented_grants())
    await connection.close()


def documented_grants() -> str:
    """Return the GRANTs of the documentation for a server that isn't the owner."""
    blocks = re.findall(r"```sql\n(.*?)```", (ROOT / "docs/postgres.md").read_text(), re.DOTALL)
    grants: list[str] = [block for block in blocks if f"TO {ROLE}" in block and "abide.append" in block]
    (only,) = grants
    return only


class Push(NamedTuple):
    """What a push came to."""

    at: float
    seconds: float
    ok: bool


@asynccontextmanager
async def pushing(url: str, *, publishers: int = 2) -> AsyncIterator[list[Push]]:
    """Push all the time, so large that pages are full soon; yields what it comes to."""
    pushes: list[Push] = []

    async def push() -> None:
        async with httpx.AsyncClient(timeout=30) as http:
            while True:
                began = time.monotonic()
                answer = await http.post(f"{url}/push/news", json="x" * 3000, headers={"connection": "close"})
                pushes.append(Push(time.monotonic(), time.monotonic() - began, answer.is_success))
                await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(push()) for _ in range(publishers)]
        yield pushes
        for task in tasks:
            task.cancel()


class Said(NamedTuple):
    """What the server says of itself."""

    ready: bool
    reasons: str
    backend_ok: bool


async def ask(place: Place) -> Said:
    """Ask whichever worker answers."""
    async with httpx.AsyncClient(base_url=place.server.url, timeout=10) as http:
        ready = await http.get("/health/ready", headers={"connection": "close"})
        metrics = parse((await http.get("/metrics", headers={"connection": "close"})).text)
    reasons = " ".join(ready.json()["reasons"])
    return Said(ready.status_code == httpx.codes.OK, reasons, metrics["abide_backend_ok"] == 1)


async def says(place: Place, *, ready: bool, seconds: float) -> str:
    """Return the reasons once both workers say for a while whether they are ready; it may take so long."""
    last = time.monotonic() + seconds + SLACK
    alike = 0
    while alike < 3 * WORKERS:
        said = await ask(place)
        alike = alike + 1 if said.ready is said.backend_ok is ready else 0
        assert alike or time.monotonic() < last, f"not {ready=} within {seconds} s: {said}"
        await asyncio.sleep(0.1)
    return said.reasons


Refusal = Callable[[Place], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def full_disk(place: Place) -> AsyncIterator[None]:
    await anyio.to_thread.run_sync(place.cluster.disk.fill)
    yield
    place.cluster.disk.free()


@asynccontextmanager
async def revoked(place: Place) -> AsyncIterator[None]:
    functions = "abide.append, abide.append_one, abide.store, abide.store_one"
    await place.sql(f"REVOKE EXECUTE ON FUNCTION {functions} FROM {ROLE}")
    yield
    await place.sql(f"GRANT EXECUTE ON FUNCTION {functions} TO {ROLE}")


@asynccontextmanager
async def locked(place: Place) -> AsyncIterator[None]:
    """Lock what pushes need, and see that few sessions wait for it."""
    connection = await place.connect()
    await connection.execute("BEGIN; LOCK TABLE abide.log, abide.head, abide.outbox IN ACCESS EXCLUSIVE MODE")
    counting = asyncio.create_task(_most_sessions(connection))
    yield
    counting.cancel()
    with suppress(asyncio.CancelledError):
        await counting
    await connection.close()


async def _most_sessions(connection: asyncpg.Connection) -> None:
    while True:
        assert await connection.fetchval(CONNECTIONS) <= SESSIONS * WORKERS
        await asyncio.sleep(0.2)


async def is_not_ready(place: Place, refusal: Refusal, reason: str) -> None:
    """See that the server says within seconds that pushes fail, and why, and that it answers each."""
    async with pushing(place.server.url) as pushes:
        await until(lambda: len(pushes) > 4 and all(push.ok for push in pushes[-4:]), "pushes work")
        async with refusal(place):
            await until(lambda: not pushes[-1].ok, "a push fails")
            reasons = await says(place, ready=False, seconds=SECONDS)
        await says(place, ready=True, seconds=SECONDS)
        await until(lambda: all(push.ok for push in pushes[-4:]), "pushes work again", seconds=SECONDS + SLACK)
    assert re.search(reason, reasons)
    assert max(push.seconds for push in pushes) < SECONDS + SLACK


async def test_servers_whose_pushes_fail_are_not_ready_and_say_why(places: list[Place]) -> None:
    """Servers on a full disk, without a right and behind a lock say so until it is over, and answer each push."""
    full, forbidden, waiting = places
    async with asyncio.TaskGroup() as group:  # each of them takes seconds to be sure
        group.create_task(is_not_ready(full, full_disk, "No space left|53100"))
        group.create_task(is_not_ready(forbidden, revoked, "abide.store"))
        group.create_task(is_not_ready(waiting, locked, "lock|abide.(log|head|outbox)|55P03|57014"))


async def test_a_server_follows_its_name_to_the_new_primary(places: list[Place]) -> None:
    """Server whose old primary only says no, while its sessions live on, pushes to the new one soon after the name."""
    place = places[0]
    cluster, old = place.cluster, place.cluster.primary
    with cluster.lagging() as standby:
        async with pushing(place.server.url) as pushes:
            await until(lambda: len(pushes) > 4, "pushes work")
            await cluster.sql(READ_ONLY, "SELECT pg_reload_conf()")
            await until(lambda: not pushes[-1].ok, "a push fails")
            reasons = await says(place, ready=False, seconds=SECONDS)
            await anyio.to_thread.run_sync(standby.catch_up)
            await anyio.to_thread.run_sync(standby.promote)
            cluster.take(standby)
            await cluster.sql(WRITABLE, "SELECT pg_reload_conf()")
            moved = time.monotonic()
            await until(
                lambda: any(push.ok and push.at - push.seconds > moved for push in pushes),
                "a push works on the new primary",
                seconds=10 + SLACK,
            )
        await says(place, ready=True, seconds=SECONDS)
        old.close()
    assert re.search("read-only|25006", reasons)
    assert max(push.seconds for push in pushes) < SECONDS + SLACK

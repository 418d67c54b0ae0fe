"""Readiness is what pushes and deliveries come to: a real PostgreSQL refuses them, and the server says so, and why."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import NamedTuple

import anyio.to_thread
import asyncpg
import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from app.bus.postgres import migrate
from tests.support.cluster import READ_ONLY, WRITABLE, Cluster
from tests.support.metrics import parse
from tests.support.readers import until
from tests.support.server import ROOT, Server
from tests.support.standby import Standby
from tests.support.subscribers import V1, running
from tests.support.verdict import Timeline

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
    """A cluster, and a server whose role may do what docs/postgres.md says, and no more."""

    cluster: Cluster
    server: Server


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with ExitStack() as stack:
        cluster = Cluster(stack, stack.enter_context(start_blocking_portal()))
        asyncio.run(migrate(cluster.url))
        asyncio.run(cluster.sql(f"CREATE ROLE {ROLE} LOGIN", documented_grants()))
        env = {
            "DATABASE_URL": cluster.through(cluster.servers, role=ROLE),
            "WEB_CONCURRENCY": str(WORKERS),
            "LOG_LEVEL": "warning",
        }
        yield Place(cluster, stack.enter_context(Server(channels=CHANNELS, env=env, ready_path="/health/ready")))


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
async def pushing(url: str, *, publishers: int = 4) -> AsyncIterator[list[Push]]:
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


Step = Callable[[Cluster], Awaitable[None]]
LOCKS: list[asyncpg.Connection] = []


async def read_only(cluster: Cluster) -> None:
    await cluster.sql(READ_ONLY, "SELECT pg_reload_conf()")


async def writable(cluster: Cluster) -> None:
    await cluster.sql(WRITABLE, "SELECT pg_reload_conf()")


async def fill(cluster: Cluster) -> None:
    await anyio.to_thread.run_sync(cluster.disk.fill)


async def free(cluster: Cluster) -> None:
    cluster.disk.free()


async def revoke(cluster: Cluster) -> None:
    await cluster.sql(f"REVOKE EXECUTE ON FUNCTION abide.append, abide.append_one FROM {ROLE}")


async def grant(cluster: Cluster) -> None:
    await cluster.sql(f"GRANT EXECUTE ON FUNCTION abide.append, abide.append_one TO {ROLE}")


async def lock(cluster: Cluster) -> None:
    connection = await asyncpg.connect(cluster.url)
    await connection.execute("BEGIN; LOCK TABLE abide.log IN ACCESS EXCLUSIVE MODE")
    LOCKS.append(connection)


async def unlock(_: Cluster) -> None:
    await LOCKS.pop().close()


@pytest.mark.parametrize(
    ("refuse", "allow", "reason"),
    [
        pytest.param(read_only, writable, "read-only|25006", id="read-only"),
        pytest.param(fill, free, "No space left|53100", id="full disk"),
        pytest.param(revoke, grant, "append", id="a right that is taken away"),
        pytest.param(lock, unlock, "abide.log|lock|55P03|57014", id="a lock"),
    ],
)
async def test_a_server_whose_pushes_fail_is_not_ready_and_says_why(
    place: Place, refuse: Step, allow: Step, reason: str
) -> None:
    """Server says within seconds that pushes fail, and why, answers each, and is ready as soon as they work again."""
    async with pushing(place.server.url) as pushes:
        await until(lambda: len(pushes) > 4 and all(push.ok for push in pushes[-4:]), "pushes work")
        await refuse(place.cluster)
        try:
            await until(lambda: not pushes[-1].ok, "a push fails")
            reasons = await says(place, ready=False, seconds=SECONDS)
        finally:
            await allow(place.cluster)
        await says(place, ready=True, seconds=SECONDS)
        await until(lambda: all(push.ok for push in pushes[-4:]), "pushes work again", seconds=SECONDS + SLACK)
    assert re.search(reason, reasons)
    assert max(push.seconds for push in pushes) < SECONDS + SLACK


async def test_a_server_that_may_not_see_what_is_pushed_delivers_it_or_is_not_ready(place: Place) -> None:
    """Server that row-level security lets see no head delivers all the same, or isn't ready, and names the table."""
    await place.cluster.sql("ALTER TABLE abide.head ENABLE ROW LEVEL SECURITY")
    subscriber = V1(place.server.url, "news", timeline=Timeline())
    log = subscriber.logs["news"]
    reasons = ""
    async with running([subscriber]):
        await asyncio.sleep(0)
        async with httpx.AsyncClient(base_url=place.server.url, timeout=10) as http:
            last = time.monotonic() + 10 + SLACK
            while not reasons and log.last != "seen":
                assert time.monotonic() < last, "neither delivered nor named"
                with suppress(httpx.HTTPError):
                    await http.post("/push/news", json="seen")
                reasons = (await ask(place)).reasons
                await asyncio.sleep(0.2)
        await place.cluster.sql("ALTER TABLE abide.head DISABLE ROW LEVEL SECURITY")
        await says(place, ready=True, seconds=SECONDS)
    assert log.last == "seen" or re.search(r"abide\.head|row-level", reasons)


async def test_locks_leave_no_sessions_behind(place: Place) -> None:
    """Server has a handful of sessions, however long a table of its is locked, and answers each push in time."""
    blocker = await asyncpg.connect(place.cluster.url)
    most = 0
    try:
        await blocker.execute("BEGIN; LOCK TABLE abide.outbox, abide.head IN ACCESS EXCLUSIVE MODE")
        async with pushing(place.server.url) as pushes:
            last = time.monotonic() + SECONDS
            while time.monotonic() < last:
                most = max(most, await blocker.fetchval(CONNECTIONS))
                await asyncio.sleep(0.2)
            await blocker.execute("ROLLBACK")
            await says(place, ready=True, seconds=SECONDS)
    finally:
        await blocker.close()
    assert most <= SESSIONS * WORKERS
    assert max(push.seconds for push in pushes) < SECONDS + SLACK


async def test_a_server_follows_its_name_to_the_new_primary(place: Place) -> None:
    """Server whose old primary only says no, while its sessions live on, pushes to the new one soon after the name."""
    cluster, old = place.cluster, place.cluster.primary
    with cluster.lagging() as standby:
        async with pushing(place.server.url) as pushes:
            await until(lambda: len(pushes) > 4, "pushes work")
            await read_only(cluster)
            await anyio.to_thread.run_sync(standby.catch_up)
            await anyio.to_thread.run_sync(standby.promote)
            await _writable(standby)
            await asyncio.sleep(1)  # as a name takes its time
            cluster.take(standby)
            moved = time.monotonic()
            await until(
                lambda: any(push.ok and push.at - push.seconds > moved for push in pushes),
                "a push works on the new primary",
                seconds=10 + SLACK,
            )
        await says(place, ready=True, seconds=SECONDS)
        assert await old.execute("SELECT count(*) FROM pg_stat_replication") == [(0,)]
        old.close()


async def _writable(standby: Standby) -> None:
    """Let a standby take writes, which has the settings of its primary."""
    await standby.execute(WRITABLE)
    await standby.execute("SELECT pg_reload_conf()")

"""A network that breaks: what is between the backend and its database is cut, silent, slow or not there."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest
from structlog.testing import capture_logs

from app.bus import group_commit, log_backend
from app.bus.outcomes import Outcomes
from app.bus.postgres import log_reads
from app.bus.postgres.listen import heartbeats, listen_session, listener
from app.bus.postgres.sessions import session
from app.bus.postgres.sessions.dsn import Dsn, parse
from app.bus.postgres.sessions.faults import WORDING
from app.bus.postgres.sessions.work_connection import WorkConnections
from app.core.errors import OutcomeUnknownError, UnavailableError
from app.core.message import Published, Record
from tests.bus.postgres.conftest import NEVER
from tests.support.pgbouncer import PgBouncer
from tests.support.postgres import PostgresServer
from tests.support.proxy import FaultProxy
from tests.support.readers import ALL, Ledger, Worker, healthy, kill, says, until, worker, workers

pytestmark = pytest.mark.usefixtures("unretrieved")


@pytest.fixture
async def proxy(postgres: PostgresServer) -> AsyncIterator[FaultProxy]:
    async with FaultProxy("127.0.0.1", postgres.port) as proxy:
        yield proxy


@pytest.fixture
def proxied(proxy: FaultProxy, database: str) -> str:
    """Return the address of the database through the proxy."""
    return f"postgresql://postgres@127.0.0.1:{proxy.port}/{database}"


@contextlib.asynccontextmanager
async def load(ledger: Ledger, publishers: list[Worker], channels: list[str]) -> AsyncIterator[Callable[[], int]]:
    """Publish all the time, half with keys and until acknowledged; yield the number acknowledged so far."""
    stopping = asyncio.Event()
    count = 0

    async def publish(worker: Worker, number: int) -> None:
        nonlocal count
        serial = 0
        while not stopping.is_set():
            record = Record(ledger.random.choice(channels), ledger.data(ledger.random.choice([8, 100, 2000, 9000])))
            if number % 2:
                serial += 1
                await ledger.insist(worker, record._replace(key=f"{worker.name}-{number}-{serial}"))
                count += 1
            else:
                (outcome,) = await ledger.publish(worker, [record])
                count += isinstance(outcome, Published)
            await asyncio.sleep(ledger.random.uniform(0, 0.01))

    async with asyncio.TaskGroup() as group:
        for worker_ in publishers:
            for number in range(6):
                group.create_task(publish(worker_, number))
        try:
            yield lambda: count
        finally:
            stopping.set()


async def test_cut_connections_cost_nothing(proxy: FaultProxy, proxied: str, url: str) -> None:
    """Workers whose connections are all cut, again and again under load, lose and double nothing."""
    ledger = Ledger(51)
    channels = ["a", "b", "c"]
    async with workers(proxied, 2) as both:
        readers = [reader for it in both for reader in await it.follow(*channels)]
        async with load(ledger, both, channels) as done:
            for number in range(8):
                before = done()
                await until(lambda before=before: done() > before + 20, "publishers go on")  # type: ignore[misc]
                proxy.cut()
                ledger.note(f"cut {number}")
        await ledger.check(url, readers)


@pytest.mark.usefixtures("no_poll")
async def test_a_slow_link_is_only_slow(
    proxy: FaultProxy, proxied: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker on a link of 50 ms each way publishes and delivers in few round trips, and stays healthy."""
    monkeypatch.setattr(listener, "_HEARTBEAT_SECONDS", NEVER)
    ledger = Ledger(52)
    async with worker(proxied) as it:
        readers = await it.follow("a")
        await ledger.publish(it, [Record("a", ledger.data(100))])
        await ledger.publish(it, [Record(channel, ledger.data(100)) for channel in "bc"])  # both queries are prepared
        proxy.delay(0.05)
        turns = proxy.turns
        await ledger.publish(it, [Record("a", ledger.data(100)) for _ in range(200)])
        await ledger.publish(it, [Record("a", ledger.data(20_000)) for _ in range(5)])
        await readers[0].until(206)
        assert proxy.turns - turns <= 2 * 15  # fifteen round trips
        assert (await it.backend.health()).ok
        await ledger.check(url, readers)


async def test_a_silent_link_is_found_dead_and_replaced(
    proxy: FaultProxy, proxied: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker whose link falls silent turns red within seconds, and goes on where it was when it heals."""
    monkeypatch.setattr(log_backend, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(log_reads, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(group_commit, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(session, "COMMAND_SECONDS", 1.0)
    monkeypatch.setattr(session, "CONNECT_SECONDS", 1.0)
    monkeypatch.setattr(listen_session, "_ANSWER_SECONDS", 1.0)
    ledger = Ledger(53)
    async with worker(proxied) as it, worker(url, name="other") as other:
        readers = [*await it.follow("a"), *await other.follow("a")]
        await ledger.publish(it, [Record("a", ledger.data(100))])
        proxy.half_open()
        ledger.note("half open")
        lost = asyncio.create_task(ledger.publish(it, [Record("a", ledger.data(100))]))
        kept = asyncio.create_task(ledger.insist(it, Record("a", ledger.data(100), "k")))
        await ledger.publish(other, [Record("a", ledger.data(100))])
        assert "no answer in time" in await healthy(it.backend, ok=False, seconds=5)
        assert isinstance((await lost)[0], OutcomeUnknownError)
        proxy.heal()
        ledger.note("healed")
        await healthy(it.backend)
        await kept
        await ledger.check(url, readers)


async def test_a_database_that_is_away_at_start_is_waited_for(
    proxy: FaultProxy, proxied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker that starts before its database says so once, refuses publishers, and serves when it comes."""
    monkeypatch.setattr(log_backend, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(log_reads, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(group_commit, "PATIENCE_SECONDS", 0.3)
    proxy.refuse()
    with capture_logs() as logs:
        async with worker(proxied, ready=False) as it:
            (refused,) = await it.publish("a", "1")
            assert type(refused) is UnavailableError
            assert str(refused) == "the database is not ready: try again in a moment"
            assert f"127.0.0.1:{proxy.port}" in str(refused.__cause__)
            with pytest.raises(UnavailableError, match="not ready"):
                await it.follow("a")
            assert f"127.0.0.1:{proxy.port}" in await healthy(it.backend, ok=False)
            await until(lambda: proxy.refused > 3, "it tries again")
            proxy.heal()
            await healthy(it.backend)
            (reader,) = await it.follow("a")
            assert isinstance((await it.publish("a", "2"))[0], Published)
            assert await reader.until(1) == [b"2"]
            assert reader.begin.offset == 0
    assert [line["event"] for line in logs if line["log_level"] != "debug"][:1] == ["not_listening"]
    assert sum(line["event"] == "not_listening" for line in logs) == 1
    assert "listening" in [line["event"] for line in logs]


async def test_a_read_waits_for_a_database_that_is_back_soon(proxy: FaultProxy, proxied: str) -> None:
    """Worker answers a read when the database comes back within its patience: a read can be repeated."""
    async with worker(proxied) as it:
        await it.publish("a", "1")
        assert len((await it.bus.read("a", 0, 10, ALL)).messages) == 1
        proxy.refuse()
        proxy.cut()
        reading = asyncio.create_task(it.bus.read("a", 0, 10, ALL))
        refused = proxy.refused
        await until(lambda: proxy.refused > refused + 3, "it tries again")
        proxy.heal()
        assert len((await reading).messages) == 1


async def test_a_read_gives_up_when_its_patience_ends(
    proxy: FaultProxy, proxied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker refuses a read when the database stays away."""
    monkeypatch.setattr(log_backend, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(log_reads, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(group_commit, "PATIENCE_SECONDS", 0.2)
    async with worker(proxied) as it:
        proxy.refuse()
        proxy.cut()
        with capture_logs() as logs:
            for _ in range(2):
                with pytest.raises(UnavailableError, match=r"^the database is not ready: try again in a moment$"):
                    await it.bus.read("a", 0, 10, ALL)
    assert len([line for line in logs if line["event"] == "read_given_up"]) == 1


async def test_a_read_is_finished_once_its_turn_has_come(
    proxy: FaultProxy, proxied: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read is not cut off because it has waited long for its turn: each would cost a connection, and none be done."""
    async with worker(proxied) as it:
        await it.publish("a", "1")
        await it.bus.read("a", 0, 10, ALL)
        monkeypatch.setattr(log_reads, "PATIENCE_SECONDS", 0.1)
        monkeypatch.setattr(log_reads, "TURN_SECONDS", 20.0)
        proxy.delay(0.3)
        assert len((await it.bus.read("a", 0, 10, ALL)).messages) == 1


class Known:
    """A listening session, as reads know it."""

    sessions = 1
    epoch = ""

    def look(self) -> None:
        """Nothing to do: no epoch is read here."""


async def test_a_read_that_waits_for_its_turn_says_nothing_of_the_database(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads of more callers than connections refuse those whose patience ends, and blame no database."""
    monkeypatch.setattr(log_reads, "PATIENCE_SECONDS", 0.2)
    connections, said = WorkConnections(parse(url), "abide read", 2, idle=10.0), Outcomes("nothing yet", WORDING)
    said.worked("listen")
    reads = log_reads.LogReads(connections, said, Known())
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(connections.session(1))
        with pytest.raises(UnavailableError):
            await reads.page("a", 0, 10, ALL)
    assert said.wrong() is None
    await connections.close()


async def test_nobody_is_told_what_a_database_says(url: str, sql: asyncpg.Connection) -> None:
    """Publisher and reader whom the database refuses are told so; its own words are in the log and the cause."""
    async with worker(url) as it:
        await it.publish("a", "1")
        await sql.execute("ALTER TABLE abide.log RENAME TO elsewhere")
        with capture_logs() as logs:
            (refused,) = await it.publish("a", "2")
            with pytest.raises(UnavailableError) as unread:
                await it.bus.read("a", 0, 10, ALL)
        for error in (refused, unread.value):
            assert str(error) == "the database refused this: try again in a moment"
            assert isinstance(error, UnavailableError)
            assert "abide.log" in str(error.__cause__)
        said = {line["event"]: line["reason"] for line in logs if "reason" in line}
        assert "abide.log" in said["commit_given_up"]
        assert "abide.log" in said["read_given_up"]
        await sql.execute("ALTER TABLE abide.elsewhere RENAME TO log")
        assert len((await it.bus.read("a", 0, 10, ALL)).messages) == 1


@pytest.mark.parametrize("key", [None, "k"], ids=["without key", "with key"])
async def test_a_commit_whose_answer_is_lost_is_unknown(
    proxy: FaultProxy, proxied: str, sql: asyncpg.Connection, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publisher whose commit was under way when the database vanished is told "unknown", never "not stored"."""
    monkeypatch.setattr(log_backend, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(log_reads, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(group_commit, "PATIENCE_SECONDS", 0.3)
    async with worker(proxied) as it:
        await it.publish("a", "1")
        await sql.execute("BEGIN; SELECT FROM abide.head FOR UPDATE")
        records = [Record("a", b"2", key), Record("a", b"3", "other")]
        publishing = asyncio.ensure_future(it.bus.publish(records))
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'abide work' AND wait_event_type = 'Lock'"
        )
        await until(lambda: sql.fetchval(waiting + " AND datname = current_database()"), "a commit that waits")
        proxy.refuse()
        proxy.cut()
        await sql.execute("ROLLBACK")
        outcomes = await publishing
        assert [type(outcome) for outcome in outcomes] == [OutcomeUnknownError] * 2


async def test_a_publisher_with_a_key_does_not_notice_a_short_outage(
    proxy: FaultProxy, proxied: str, sql: asyncpg.Connection
) -> None:
    """Publisher with a key whose commit is cut in the middle gets its position, of the one message stored."""
    async with worker(proxied) as it:
        (reader,) = await it.follow("a")
        for number in range(10):
            publishing = asyncio.create_task(it.publish("a", str(number), key=f"k{number}"))
            for _ in range(number):
                await asyncio.sleep(0)
            proxy.cut()
            (outcome,) = await publishing
            assert isinstance(outcome, Published)
            assert outcome.position.offset == number + 1
        assert await reader.until(10) == [str(number).encode() for number in range(10)]
    assert await sql.fetchval("SELECT head FROM abide.head") == 10


async def test_pgbouncer_with_a_direct_url_works_under_load(
    postgres: PostgresServer, url: str, database: str, sql: asyncpg.Connection
) -> None:
    """Workers behind PgBouncer, with LISTEN past it, deliver everything once, though both links are cut."""
    ledger = Ledger(61)
    channels = ["a", "b", "c"]
    with PgBouncer(postgres) as pool:
        # The workers' link to it is cut, not its own to the server: killed there, PgBouncer 1.18 sometimes dies.
        async with FaultProxy("127.0.0.1", pool.port) as proxy:
            pooled_url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{database}"
            async with workers(pooled_url, 2, direct_url=url) as both:
                readers = [reader for it in both for reader in await it.follow(*channels)]
                async with load(ledger, both, channels) as done:
                    for number in range(4):
                        before = done()
                        await until(lambda before=before: done() > before + 40, "publishers go on")  # type: ignore[misc]
                        proxy.cut()
                        ledger.note(f"cut, and killed {await kill(sql, 'abide listen')}")
                        await sql.execute("SELECT abide.publish('a', to_jsonb($1::text))", f"sql {number}")
                        ledger.committed["a"][f'"sql {number}"'.encode()] += 1
                assert len((await both[0].bus.read("a", 0, 10, ALL)).messages) == 10
                await ledger.check(url, readers)


async def test_pgbouncer_without_a_direct_url_is_noticed(postgres: PostgresServer, database: str) -> None:
    """Worker whose LISTEN goes through PgBouncer turns red, and names the setting that helps."""
    with PgBouncer(postgres) as pool, capture_logs() as logs:
        async with worker(pool.url(database), ready=False) as it:
            await says(it.backend, "DIRECT_DATABASE_URL", seconds=10)
            await until(lambda: any("DIRECT_DATABASE_URL" in str(line.get("reason")) for line in logs), "a line")


async def test_a_session_that_goes_deaf_is_replaced(
    url: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker whose LISTEN stops hearing makes another one."""
    monkeypatch.setattr(listener, "_HEARTBEAT_SECONDS", 0.2)
    monkeypatch.setattr(heartbeats, "_DEAF_SECONDS", 0.3)
    connections: list[asyncpg.Connection] = []

    async def connect(dsn: Dsn, name: str) -> asyncpg.Connection:
        connections.append(await session.connect(dsn, name))
        return connections[-1]

    monkeypatch.setattr(listener, "connect", connect)
    async with worker(url) as it:
        pid = (
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'abide listen'"
        )
        before = await sql.fetchval(pid)
        while connections[0].get_server_pid():
            with contextlib.suppress(asyncpg.InterfaceError):  # it is in use
                await connections[0].execute("UNLISTEN *")
                break
            await asyncio.sleep(0)

        async def replaced() -> bool:
            return await sql.fetchval(pid) not in (before, None)

        await until(replaced, "another session")
        await healthy(it.backend)


@pytest.mark.usefixtures("no_poll")
async def test_what_was_missed_between_two_sessions_is_fetched(
    url: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker whose LISTEN was away has, as soon as it is back, what was published meanwhile."""
    gate = asyncio.Event()

    async def connect(dsn: Dsn, name: str) -> asyncpg.Connection:
        await gate.wait()
        return await session.connect(dsn, name)

    async with worker(url) as it, worker(url, name="other") as other:
        (reader,) = await it.follow("a")
        monkeypatch.setattr(listener, "connect", connect)
        await kill(sql, "abide listen")
        await healthy(it.backend, ok=False)
        await other.publish("a", "1", "2")
        await sql.execute("SELECT abide.publish('a', '3')")
        gate.set()
        assert await reader.until(3, seconds=5) == [b"1", b"2", b"3"]


@pytest.mark.usefixtures("no_poll")
async def test_nothing_falls_between_listen_and_the_heads(
    url: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker misses nothing that is published the moment before it listens again."""
    listen = asyncpg.Connection.add_listener
    waiting, gate = asyncio.Event(), asyncio.Event()

    async def add_listener(connection: asyncpg.Connection, *arguments: object) -> None:
        waiting.set()
        await gate.wait()
        await listen(connection, *arguments)  # type: ignore[arg-type]

    async with worker(url) as it, worker(url, name="other") as other:
        (reader,) = await it.follow("a")
        monkeypatch.setattr(asyncpg.Connection, "add_listener", add_listener)
        await kill(sql, "abide listen")
        await waiting.wait()
        await other.publish("a", "1")
        gate.set()
        assert await reader.until(1, seconds=5) == [b"1"]

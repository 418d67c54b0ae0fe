"""Neighbours: roles that may connect to the database and have no right in our schema, and what they may try."""

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest
from structlog.testing import capture_logs

from app.bus import group_commit, outcomes
from app.bus.follower import Follower
from app.bus.place import Place
from app.bus.postgres.listen import heartbeats, listener
from app.bus.postgres.listen.hearing import Hearing
from app.bus.postgres.listen.heartbeats import Heartbeats
from app.bus.postgres.listen.listener import Listener
from app.bus.postgres.listen.outbox_mover import OutboxMover
from app.bus.postgres.retention import trim
from app.bus.postgres.sessions.dsn import parse
from app.bus.postgres.sessions.faults import WORDING
from app.bus.postgres.sessions.work_connection import WorkConnection
from app.bus.postgres.sql import query
from app.core.errors import UnavailableError
from app.core.message import Message, Published
from app.core.ports import UNMETERED
from tests.bus.postgres.test_migrations import WORKER, as_role
from tests.support.postgres import PostgresServer
from tests.support.readers import ALL, healthy, says, until, worker

pytestmark = pytest.mark.usefixtures("unretrieved")

FORGED = (
    'i a {last} 1 1700000000000\n"forged"',
    'e {zeros} 3f2a90b1 a {last} 1 1700000000000\n"forged"',
    'e {zeros} 3f2a90b1 a {last} 1 9999999999999\n"forged"',
    'e  a {last} 1 1\n"forged"',
    'e {zeros} 3f2a90b1 a {last} 1\n"forged"',
    'e {zeros} 3f2a90b1 a {last} 1 {digits}\n"forged"',
    'e {zeros} 3f2a90b1 a {digits} 1 1\n"forged"',
    'e {zeros} 3f2a90b1 a 999999999 1 1\n"forged"',
    'e {zeros} 3f2a90b1 a -1 1 1\n"forged"',
    'e {zeros} 3f2a90b1 ä {last} 1 1\n"forged"',
    "e {zeros}", "e {zeros} 3f2a90b1",
    "e", "m", "i", "d", "h", "", "?",
    "d\na 999999999", "d\na {digits}", "d\na -1", "d\na ٣", "d\na", "d\n a 1", "d a 1", "d\nb 7\na x\nc",
    "b\n\n", "h nobody", "h nobody 1", "h  x",
)  # fmt: skip
"""Payloads of neighbours."""

LOCKS = [
    *(f"SELECT pg_advisory_lock({key})" for key in range(4712340000, 4712340010)),
    *(f"SELECT pg_advisory_lock_shared({key})" for key in range(4712340010, 4712340012)),
]


@pytest.fixture
async def neighbour(url: str, role: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect as a role without rights."""
    connection = await asyncpg.connect(as_role(url, role))
    yield connection
    connection.terminate()


@pytest.fixture
async def heard(url: str, role: str) -> AsyncIterator[list[str]]:
    """Listen as a role without rights: collect all that is notified."""
    payloads: list[str] = []
    connection = await asyncpg.connect(as_role(url, role))
    await connection.add_listener("abide", lambda _, __, ___, payload: payloads.append(str(payload)))
    yield payloads
    connection.terminate()


@pytest.fixture
async def uncaught() -> list[dict[str, object]]:
    """Collect what is raised where nobody catches it, as in a callback of asyncpg's."""
    found: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
    return found


async def trim_once(url: str) -> None:
    """Trim the log as a worker does every ten seconds."""
    connection = WorkConnection(parse(url), "abide work")
    await trim(connection, lambda _: ALL)
    await connection.close()


async def notify(connection: asyncpg.Connection, payload: str) -> None:
    await connection.execute("SELECT pg_notify('abide', $1)", payload)


FETCH, MOVE = "CROSS JOIN unnest", "FROM abide.drain($1"
"""What is in each statement of a fetch, and of a move of the outbox, and in no other."""


@pytest.mark.parametrize("stored", [0, 3])
@pytest.mark.parametrize("inline", [True, False], ids=["inline", "doorbell"])
async def test_what_a_neighbour_notifies_is_never_delivered(
    url: str,
    neighbour: asyncpg.Connection,
    uncaught: list[dict[str, object]],
    stored: int,
    inline: bool,  # noqa: FBT001 — pytest gives it
) -> None:
    """Subscriber is handed what the log holds and nothing else, whatever a role without rights notifies."""
    async with worker(url, inline=inline) as it:
        (reader,) = await it.follow("a")
        real = [str(number).encode() for number in range(stored)]
        for text in real:
            await it.publish("a", text.decode())
        await reader.until(stored)
        for payload in FORGED * 2:
            last = reader.last + 1
            await notify(neighbour, payload.format(last=last, zeros="0" * 32, digits="9" * 5000))
            real.append(str(last).encode())
            await it.publish("a", str(last))
            assert await reader.until(len(real)) == real
        assert reader.faults == []
        assert (await it.backend.health()).ok
    assert uncaught == []


@pytest.mark.usefixtures("no_poll")
async def test_what_a_commit_has_sealed_is_delivered_without_a_read(
    url: str, sql: asyncpg.Connection, statements: Callable[[str], int]
) -> None:
    """Message that comes with a notification of its commit is not read from the log, over HTTP's way and from SQL."""
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        await it.publish("a", "1")
        await it.publish("a", '"é 🎳"', "3")
        await it.publish("a", "4", key="k")
        await sql.execute("SELECT abide.publish('a', '5')")
        assert await reader.until(5) == [b"1", '"é 🎳"'.encode(), b"3", b"4", b"5"]
    assert statements(FETCH) == 0


async def test_a_notification_of_another_key_is_not_proved(url: str, sql: asyncpg.Connection) -> None:
    """Notification with a MAC of the right form, made with another key, is a hint."""
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        said = '3f2a90b1 a 1 1 9999999999999\n"forged"'
        await notify(sql, f"e {hmac.digest(b'another', said.encode(), hashlib.sha256).hex()[:32]} {said}")
        await it.publish("a", "1")
        assert await reader.until(1) == [b"1"]


@pytest.mark.usefixtures("no_poll")
async def test_what_a_copy_of_the_database_has_sealed_is_not_proved(
    postgres: PostgresServer, database: str, url: str, statements: Callable[[str], int]
) -> None:
    """Notification that a commit in a copy of the database has sealed delivers nothing in the original."""
    copy = await postgres.create_database(database)
    original, other = await asyncpg.connect(url), await asyncpg.connect(postgres.url(copy))
    payloads: list[str] = []
    await original.execute(f"ALTER DATABASE {database} RESET log_statement")
    await original.execute(f"ALTER DATABASE {copy} SET log_statement = 'all'")
    await other.add_listener("abide", lambda _, __, ___, payload: payloads.append(str(payload)))
    async with worker(url) as it, worker(postgres.url(copy)) as copied:
        (reader,) = await it.follow("a")
        (there,) = await copied.follow("a")
        await copied.publish("a", '"of the copy"')
        assert await there.until(1) == [b'"of the copy"']
        assert statements(FETCH) == 0
        await until(lambda: [payload for payload in payloads if payload[0] == "e"], "a notification")
        for payload in payloads:
            await notify(original, payload)
        await it.publish("a", "1")
        assert await reader.until(1) == [b"1"]
    original.terminate()
    other.terminate()
    await postgres.drop_database(copy)


@pytest.mark.usefixtures("no_poll")
async def test_a_new_seal_is_taken_by_the_next_session(
    url: str, sql: asyncpg.Connection, statements: Callable[[str], int]
) -> None:
    """Worker delivers by hints what is sealed with a new secret, and takes it without a read once it has connected."""
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        await sql.execute("SELECT abide.reseal()")
        await it.publish("a", "1")
        assert await reader.until(1) == [b"1"]
        assert statements(FETCH) == 1
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        await it.publish("a", "2")
        assert await reader.until(1) == [b"2"]
    assert statements(FETCH) == 1


async def test_a_replay_after_a_restored_backup_is_not_delivered(
    url: str, sql: asyncpg.Connection, neighbour: asyncpg.Connection, heard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notification that was genuine before an older backup was restored delivers nothing when it is sent again."""
    monkeypatch.setattr(listener, "_POLL_SECONDS", 0.05)
    with capture_logs() as logs:
        async with worker(url) as it:
            (reader,) = await it.follow("a")
            await it.publish("a", "1")
            for text in ('"gone"', '"gone, too"'):
                await it.publish("a", text)
                await it.publish("unheard", text)
            await reader.until(3)
            await until(lambda: len([payload for payload in heard if payload[0] == "e"]) == 5, "five notifications")
            await sql.execute("BEGIN; UPDATE abide.head SET head = 1; DELETE FROM abide.log WHERE last > 1; COMMIT")
            await until(lambda: "log_went_back" in [line["event"] for line in logs], "a line in the log")
            (late,) = await it.follow("unheard")
            for payload in heard.copy():
                await notify(neighbour, payload)
            for channel in ("a", "unheard"):
                await it.publish(channel, '"two"')
            assert await reader.until(2) == [b"1", b'"two"']
            assert await late.until(1) == [b'"two"']


async def test_a_role_that_may_not_read_the_seal_works_by_hints(url: str, sql: asyncpg.Connection, role: str) -> None:
    """Worker whose role may not read the secret delivers everything, and says once what to grant."""
    await sql.execute(WORKER.replace(", abide.seal", "").format(role=role))
    with capture_logs() as logs:
        async with worker(as_role(url, role)) as it:
            (reader,) = await it.follow("a")
            for number in range(20):
                await it.publish("a", str(number))
                await reader.until(number + 1)
            await sql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'abide listen' AND datname = current_database()"
            )
            await until(lambda: "listening" in [line["event"] for line in logs[2:]], "another session")
            await it.publish("a", "20")
            await reader.until(21)
    said = [line for line in logs if line["event"] == "seal_unreadable"]
    assert len(said) == 1
    assert "GRANT SELECT ON abide.seal" in said[0]["detail"]


async def test_a_flood_of_hints_costs_few_reads(
    url: str, neighbour: asyncpg.Connection, statements: Callable[[str], int]
) -> None:
    """Follower reads the log a few times for any number of forged heads, and delivers meanwhile."""
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        began = asyncio.get_running_loop().time()
        for number in range(400):
            await notify(neighbour, f"d\na {10**9 + number}")
            if number % 100 == 0:
                await it.publish("a", str(number))
        assert await reader.until(4) == [b"0", b"100", b"200", b"300"]
        seconds = asyncio.get_running_loop().time() - began
    assert statements(FETCH) <= 10 + seconds * 60


async def fetches_nothing(_: dict[str, int]) -> dict[str, tuple[Place, tuple[Message, ...]]]:
    return {}


async def moves_nothing(_: int) -> int:
    return 0


@pytest.mark.parametrize(
    "payload", ["d\na {number}", "b", "e {zeros} 3f2a90b1 a {number} 1 1\n1"], ids=["heads", "bells", "messages"]
)
async def test_what_is_heard_takes_a_bounded_part_of_a_turn(payload: str) -> None:
    """Hearing drops what is heard in a turn of the event loop after its share of it, and hears again in the next."""
    looked: list[int] = []

    class Looks(Follower):
        def look(self, channel: str, head: int) -> None:  # noqa: ARG002
            looked.append(head)

    class Rings(OutboxMover):
        def ring(self) -> None:
            looked.append(0)

    async def place(_: str) -> Place:
        return Place("3f2a90b1", 0)

    follower = Looks(fetches_nothing)
    await follower.follow("a", place)
    looked.clear()
    hearing = Hearing(
        follower, Rings(moves_nothing, outcomes.Outcomes("", WORDING)), Heartbeats(), None, lambda: None, lambda: None
    )
    for number in range(50_000):
        hearing.hear(payload.format(number=number, zeros="0" * 32))
    first = len(looked)
    assert 0 < first < 50_000
    await asyncio.sleep(0)
    hearing.hear(payload.format(number=1, zeros="0" * 32))
    assert len(looked) == first + 1


async def test_a_flood_of_bells_moves_nothing(
    url: str, sql: asyncpg.Connection, neighbour: asyncpg.Connection, statements: Callable[[str], int]
) -> None:
    """Worker that is rung for nothing asks nothing of the connection that commits, and hears the bell that counts."""
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        for _ in range(300):
            await notify(neighbour, "b")
        assert statements(MOVE) == 0
        await sql.execute("SELECT abide.publish('a', '1')")
        assert await reader.until(1, seconds=5) == [b"1"]


async def test_forged_heartbeats_do_not_hide_that_nothing_is_heard(
    url: str, neighbour: asyncpg.Connection, heard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker whose heartbeats do not come back says so, whatever others have sent in their place before."""
    monkeypatch.setattr(listener, "_HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(heartbeats, "_DEAF_SECONDS", 0.2)
    monkeypatch.setattr(listener, "_POLL_SECONDS", 0.05)
    is_deaf, said, other = False, outcomes.Outcomes("nothing yet", WORDING), await asyncpg.connect(url)
    server = str(await other.fetchval(query("server")))

    async def send(payload: str) -> str:
        """Notify, or send it to nobody, as to a listener that is deaf."""
        if not is_deaf:
            await notify(other, payload)
        return server

    mover = OutboxMover(moves_nothing, said)
    listening = Listener(parse(url), Follower(fetches_nothing), mover, send, UNMETERED, said, inline=True)
    running = asyncio.create_task(listening.run())
    await until(lambda: len(heard) > 2, "some heartbeats")
    for payload in heard.copy():
        await notify(neighbour, payload)
        await notify(neighbour, " ".join(payload.split(" ")[:2]) + " 9999999")
    await until(lambda: said.wrong() is None, "it hears")
    is_deaf = True
    await until(lambda: "hears nothing" in (said.wrong() or ""), "it is deaf", seconds=5)
    running.cancel()
    await asyncio.wait([running])
    other.terminate()


async def test_a_neighbour_that_holds_every_advisory_lock_stops_nothing(
    url: str, sql: asyncpg.Connection, neighbour: asyncpg.Connection
) -> None:
    """Worker publishes, drains and stays healthy while a role without rights holds whatever lock it can, and rings."""
    for lock in LOCKS:
        await neighbour.execute(lock)
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        async with asyncio.timeout(9):  # each push waited for 9.5 s
            for number in range(5):
                await notify(neighbour, "b")
                await it.publish("a", str(number))
            await sql.execute("SELECT abide.publish('a', '5')")
            assert await reader.until(6) == [b"0", b"1", b"2", b"3", b"4", b"5"]
        assert await sql.fetchval("SELECT abide.trim('{a}', '{1}', '{1}', 10)") == 0
        assert (await it.backend.health()).ok


async def test_a_commit_that_waits_shows_in_readiness(
    url: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker whose commit waits says so in one line, between attempts too, and is well again when one works."""
    monkeypatch.setattr(outcomes, "LATE_SECONDS", 0.2)
    monkeypatch.setattr(group_commit, "PATIENCE_SECONDS", 0.5)
    async with worker(url) as it:
        await it.publish("a", "1")
        transaction = sql.transaction()
        await transaction.start()
        await sql.execute("SELECT FROM abide.head FOR UPDATE")
        publishing = asyncio.create_task(it.publish("a", "2"))
        detail = await says(it.backend, "a commit has waited")
        assert detail.endswith("s for the database: pg_stat_activity shows what holds it up")
        (outcome,) = await publishing
        assert isinstance(outcome, UnavailableError)
        assert not (await it.backend.health()).ok
        await transaction.rollback()
        assert isinstance((await it.publish("a", "2"))[0], Published)
        await healthy(it.backend)


async def test_a_drain_that_waits_shows_in_readiness(
    url: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker whose drain waits says so, and is well again when it works."""
    monkeypatch.setattr(outcomes, "LATE_SECONDS", 0.2)
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        await it.publish("a", "1")
        other = await asyncpg.connect(url)
        transaction = sql.transaction()
        await transaction.start()
        await sql.execute("SELECT FROM abide.head FOR UPDATE")
        await other.execute("SELECT abide.publish('a', '2')")
        await says(it.backend, "a move of the outbox has waited")
        await transaction.rollback()
        assert await reader.until(2) == [b"1", b"2"]
        await healthy(it.backend)
        other.terminate()


FULL_QUEUE = """
CREATE SEQUENCE public.attempts;
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('public.attempts') % 2 = 1 THEN
        RAISE EXCEPTION 'too many notifications in the NOTIFY queue' USING ERRCODE = 'program_limit_exceeded';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER full_queue AFTER INSERT ON abide.log DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION public.refuse();
"""
"""Refuses each first attempt at its commit, as PostgreSQL does when somebody listens and does not read."""


async def test_a_full_queue_of_notifications_stops_no_commit(url: str, sql: asyncpg.Connection) -> None:
    """Worker commits without a notification what cannot be committed with one, and followers find it by their poll."""
    await sql.execute(FULL_QUEUE)
    heard: list[str] = []
    await sql.add_listener("abide", lambda _, __, ___, payload: heard.append(str(payload)))
    with capture_logs() as logs:
        async with worker(url) as it:
            (reader,) = await it.follow("a")
            assert isinstance((await it.publish("a", "1"))[0], Published)
            assert isinstance((await it.publish("a", "2", key="k"))[0], Published)
            await sql.execute("SELECT abide.publish('a', '3')")
            assert await reader.until(3) == [b"1", b"2", b"3"]
            assert len((await it.bus.read("a", 0, 10, ALL)).messages) == 3
    assert [payload for payload in heard if payload[0] in "md"] == []
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["notify_refused"] * 3


TRAPS = (("=", "oid", "regclass"), ("*", "numeric", "integer"), ("*", "double precision", "integer"))
"""Operators that PostgreSQL has for other types only, so that one in public fits better."""


async def test_what_others_put_into_public_is_not_run_by_a_server(url: str, sql: asyncpg.Connection) -> None:
    """Worker whose search_path has public in it runs no operator that a role has put there, whatever it does."""
    for operator, left, right in TRAPS:
        await sql.execute(
            f"CREATE FUNCTION public.trap({left}, {right}) RETURNS {left} LANGUAGE plpgsql"
            " AS $$ BEGIN RAISE 'trapped'; END $$"
        )
        await sql.execute(
            f"CREATE OPERATOR public.{operator} (FUNCTION = public.trap, LEFTARG = {left}, RIGHTARG = {right})"
        )
    with pytest.raises(asyncpg.PostgresError, match="trapped"):
        await sql.execute("SELECT 1::oid = 'abide.outbox'::regclass")
    with capture_logs() as logs:
        async with worker(url) as it:
            (reader,) = await it.follow("a")
            for outcome in [*await it.publish("a", "1", "2"), *await it.publish("a", "3", key="k")]:
                assert isinstance(outcome, Published), outcome
            await sql.execute("SELECT abide.publish('a', '4', 'k')")
            assert await reader.until(4) == [b"1", b"2", b"3", b"4"]
            await notify(sql, "d\na 9")
            assert len((await it.bus.read("a", 0, 10, ALL)).messages) == 4
            await until(lambda: sql.fetchval("SELECT until = 0::bigint FROM abide.turn WHERE what = 'lead'"), "a rest")
            await trim_once(url)
    assert [line for line in logs if line["log_level"] in ("warning", "error")] == []

"""Taking back tokens from SQL, in the transaction of the application."""

import asyncio
import json
import time

import asyncpg
import pytest

from app.access import windows
from app.bus import log_backend
from app.bus.postgres.retention import trim
from app.bus.postgres.sessions.dsn import parse
from app.bus.postgres.sessions.work_connection import WorkConnection
from app.core.channel import ACCESS, TICKETS, HistoryWindow
from app.core.errors import UnavailableError
from app.core.message import Batch, EpochChange, Position, Record
from tests.support.readers import ALL, kill, until, worker, workers

ODD = "a1_.:|@+=~'-"
"""All characters that are in subjects of logins and so in names of channels, of each kind one."""


async def taken_back(url: str, count: int) -> list[dict[str, object]]:
    """Return the entries of the log when there are so many."""
    async with worker(url) as it:

        async def come() -> bool:
            return (await it.bus.read(ACCESS, 0, 0, ALL)).head >= count

        await until(come, f"{count} entries in the log")
        return [json.loads(message.data) for message in (await it.bus.read(ACCESS, 0, 1000, ALL)).messages]


async def test_what_is_taken_back_comes_into_the_log_in_order(url: str, sql: asyncpg.Connection) -> None:
    """Statements come into the log as one JSON object each, in the order of their commits."""
    await sql.execute("SELECT abide.revoke('auth0|65f', '2026-01-02 03:04:05.25+00')")
    await sql.execute("SELECT abide.revoke_token('9f'), abide.disconnect('42')")
    await sql.execute("SELECT abide.disconnect('42', 'chat.o''neil')")
    assert await taken_back(url, 4) == [
        {"revoke": {"sub": "auth0|65f", "before": 1767323045.25}},
        {"revoke": {"jti": "9f"}},
        {"disconnect": {"sub": "42", "channel": None}},
        {"disconnect": {"sub": "42", "channel": "chat.o'neil"}},
    ]


async def test_tokens_are_taken_back_up_to_the_call(url: str, sql: asyncpg.Connection) -> None:
    """Revocation without a time counts from the call, not from the beginning of its transaction."""
    await sql.execute("BEGIN; SELECT pg_sleep(0.2)")
    called = time.time()
    await sql.execute("SELECT abide.revoke('42'); COMMIT")
    (entry,) = await taken_back(url, 1)
    assert entry == {"revoke": {"sub": "42", "before": pytest.approx(called, abs=0.15)}}


async def test_the_ban_and_the_cut_off_are_committed_together_or_not_at_all(url: str, sql: asyncpg.Connection) -> None:
    """Transaction of the application that is rolled back takes nothing back, as a whole or to a savepoint."""
    await sql.execute("CREATE TABLE public.banned (id text PRIMARY KEY)")
    ban = "INSERT INTO public.banned VALUES ('{0}'); SELECT abide.revoke('{0}'), abide.disconnect('{0}')"
    await sql.execute(f"BEGIN; {ban.format('1')}; ROLLBACK")
    await sql.execute(f"BEGIN; SAVEPOINT s; {ban.format('2')}; ROLLBACK TO s; {ban.format('3')}; COMMIT")
    with pytest.raises(asyncpg.UniqueViolationError):
        await sql.execute(f"BEGIN; {ban.format('3')}; COMMIT")
    await sql.execute(f"ROLLBACK; BEGIN; {ban.format('4')}; COMMIT")
    entries = await taken_back(url, 4)
    assert [subject(entry) for entry in entries] == ["3", "3", "4", "4"]
    assert [row["id"] for row in await sql.fetch("SELECT id FROM public.banned ORDER BY id")] == ["3", "4"]


def subject(entry: dict[str, object]) -> object:
    (members,) = entry.values()
    return members["sub"] if isinstance(members, dict) else None


async def test_one_statement_takes_back_many(url: str, sql: asyncpg.Connection) -> None:
    """Statement over a table takes back as many tokens as it has rows."""
    await sql.execute("SELECT abide.revoke('user ' || i) FROM generate_series(1, 3000) i")
    async with worker(url) as it:
        (reader,) = await it.follow(ACCESS)
        await until(lambda: reader.last == 3000, "all are in the log")


REFUSED = {
    "SELECT abide.revoke(NULL)": 'NULL is no sub of a token: pass the text that the tokens have as "sub"',
    "SELECT abide.revoke('')": "'' is no sub of a token",
    "SELECT abide.revoke(repeat('x', 256))": "1 to 255 characters",
    "SELECT abide.revoke('42', NULL)": "NULL is no time: pass the time before which the tokens were issued",
    "SELECT abide.revoke('42', 'infinity')": "infinity is no time",
    "SELECT abide.revoke('42', to_timestamp(1790000000000))": "is more than an hour ahead: pass a time up to now",
    "SELECT abide.revoke_token(NULL)": "abide.revoke_token: NULL is no jti of a token",
    "SELECT abide.disconnect(NULL)": "abide.disconnect: NULL is no sub of a token",
    "SELECT abide.disconnect('42', 'no channel')": "is not a channel: pass the name of one, or leave it out",
    "SELECT abide.disconnect('42', '$access')": "is not a channel",
    "SELECT abide.publish('$access', '{}')": "is not a channel: a name has 1 to 255 letters",
}


@pytest.mark.parametrize("statement", REFUSED)
async def test_a_bad_argument_is_an_error_that_says_what_to_do(sql: asyncpg.Connection, statement: str) -> None:
    """Call with a bad argument is an error in its transaction, and nothing is taken back."""
    with pytest.raises(asyncpg.InvalidParameterValueError) as caught:
        await sql.execute(statement)
    assert REFUSED[statement] in str(caught.value)
    assert await sql.fetchval("SELECT count(*) FROM abide.outbox") == 0


async def test_a_name_holds_the_subject_of_a_login(url: str, sql: asyncpg.Connection) -> None:
    """Channel whose name has the characters of subjects is published to from SQL."""
    async with worker(url) as it:
        (reader,) = await it.follow(f"user.{ODD}")
        await sql.execute("SELECT abide.publish($1, '1')", f"user.{ODD}")
        await sql.execute("INSERT INTO abide.outbox (channel, data) VALUES ($1, '2')", f"user.{ODD}")
        assert await reader.until(2) == [b"1", b"2"]


async def test_taking_back_is_a_right_of_its_own(url: str, sql: asyncpg.Connection) -> None:
    """Role that may publish may not take back until it is granted that, and then needs no other right."""
    role = "role_of_taking_back"
    await sql.execute(f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA abide TO {role}")
    await sql.execute(f"GRANT EXECUTE ON FUNCTION abide.publish TO {role}")
    connection = await asyncpg.connect(url.replace("postgres@", f"{role}@"))
    calls = "SELECT abide.revoke('42'), abide.revoke_token('9f'), abide.disconnect('42')"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(calls)
    await sql.execute(f"GRANT EXECUTE ON FUNCTION abide.revoke, abide.revoke_token, abide.disconnect TO {role}")
    await connection.execute(calls)
    await connection.close()
    assert len(await taken_back(url, 3)) == 3
    await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


class Diary:
    """A sink of several channels, which notes what comes in which order."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int]] = []

    def start(self, position: Position) -> None:
        """Nothing to note."""

    def deliver(self, batch: Batch) -> None:
        self.lines += [(batch.channel, int(message.data)) for message in batch.messages]

    def change_epoch(self, change: EpochChange) -> None:
        """Nothing to note."""

    def lose(self) -> None:
        """Only the protocol: nothing here is live only."""

    def failed(self) -> None:
        """Nothing to note."""


async def test_a_worker_that_was_away_learns_first_what_was_taken_back(url: str, sql: asyncpg.Connection) -> None:
    """Worker whose LISTEN is cut again and again hands out no message before what was taken back ahead of it."""
    async with workers(url, 2) as (publisher, it):
        diary, over = Diary(), asyncio.Event()
        for channel in ("a", ACCESS):
            await it.bus.follow(channel, diary)

        async def cut() -> None:
            while not over.is_set():
                await kill(sql, "abide listen")
                await asyncio.sleep(0.03)

        cutting = asyncio.create_task(cut())
        for number in range(400):
            await publisher.bus.publish([Record(ACCESS, b"%d" % number)])
            await publisher.bus.publish([Record("a", b"%d" % number)])
        over.set()
        await cutting
        await until(lambda: len(diary.lines) == 800, "all are handed out")
    newest = -1
    for channel, number in diary.lines:
        if channel == ACCESS:
            newest = number
        else:
            assert number <= newest, diary.lines


async def test_what_is_taken_back_before_a_worker_starts_is_in_the_log_that_it_reads(
    url: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker that begins to follow waits for what is in the outbox, and says so where that does not get on."""
    await sql.execute("SELECT abide.publish('a', '1') FROM generate_series(1, 3000)")
    await sql.execute("SELECT abide.revoke('42')")
    async with worker(url) as it:
        (reader,) = await it.follow(ACCESS)
        assert reader.begin.offset == 1
        await sql.execute("BEGIN; SELECT FROM abide.turn WHERE what = 'drain' FOR UPDATE")  # nobody can move
        other = await asyncpg.connect(url)
        await other.execute("SELECT abide.revoke('43')")
        monkeypatch.setattr(log_backend, "PATIENCE_SECONDS", 0.3)
        with pytest.raises(UnavailableError, match=r"still in abide\.outbox"):
            await it.backend.follow(ACCESS)
        await other.close()


async def test_what_was_taken_back_is_kept_whatever_is_idle_or_old(url: str, sql: asyncpg.Connection) -> None:
    """Retention keeps what was taken back for the lifetime of a token, and for a day where an older server trims."""
    short = HistoryWindow(size=1, ttl=60)
    for number in range(3):
        await sql.execute("SELECT abide.revoke($1)", str(number))
        await taken_back(url, number + 1)
    async with worker(url) as it:
        await it.bus.publish([Record(channel, b"1") for channel in (TICKETS, "a")])
    connection = WorkConnection(parse(url), "abide work")

    async def left(seconds: int, lifetime: float | None) -> dict[str, int]:
        """Return how many rows each channel has after everything was made older and trimmed."""
        for table in ("log", "head"):
            await sql.execute(f"UPDATE abide.{table} SET time = time - {seconds * 1000}")  # noqa: S608 — our own names
        await trim(connection, lambda name: (lifetime and windows.internal(name, lifetime)) or short)
        rows = await sql.fetch(
            "SELECT h.channel, count(l.last) AS n FROM abide.head h LEFT JOIN abide.log l USING (channel) GROUP BY 1"
        )
        return {row["channel"]: row["n"] for row in rows}

    assert await left(23 * 3600, None) == {ACCESS: 3}  # as a server does that knows nothing of it
    assert await left(24 * 3600, 48 * 3600.0) == {ACCESS: 3}
    assert await left(3 * 3600, 48 * 3600.0) == {ACCESS: 0}
    assert (await sql.fetchval("SELECT head FROM abide.head WHERE channel = $1", ACCESS)) == 3
    await connection.close()

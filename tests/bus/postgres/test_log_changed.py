"""A log whose history was rewritten: restored, copied, emptied, or another one in its place."""

import asyncio
import functools
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest
from structlog.testing import capture_logs

from app.bus.postgres import migrate
from app.bus.postgres.listen import listener
from app.bus.seen import Seen
from app.core.errors import UnavailableError
from app.core.message import Position, Published
from app.core.resume import Beginning, Gap, Reason, Start, begin
from tests.support.postgres import PostgresServer, find_binaries
from tests.support.readers import ALL, Worker, healthy, says, worker

pytestmark = pytest.mark.usefixtures("unretrieved")


async def program(name: str, url: str, *arguments: str, given: str = "") -> str:
    """Run one of PostgreSQL's programs on a database; return what it prints."""
    command = [find_binaries() / name, "--dbname", url, *arguments]
    run = functools.partial(subprocess.run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    done = await asyncio.to_thread(run, command, input=given)
    assert done.returncode == 0, done.stdout[-2000:]
    return str(done.stdout)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a stopped server's data; everything is still its account's."""
    shutil.copytree(source, target, symlinks=True)
    for path in (source, *source.rglob("*")):
        shutil.chown(target / path.relative_to(source), path.stat().st_uid, path.stat().st_gid)


async def dump(url: str) -> str:
    """Return a dump of the schema, as SQL that any part of can be run."""
    text = await program("pg_dump", url, "--schema=abide")
    return "\n".join(line for line in text.split("\n") if "restrict" not in line)


async def restore(url: str, text: str) -> None:
    """Put a dump in place of what is there, in one transaction."""
    arguments = ("-qX", "--single-transaction", "-v", "ON_ERROR_STOP=1")
    await program("psql", url, *arguments, given="DROP SCHEMA abide CASCADE;\n" + text)


async def publish(it: Worker, *texts: str, channel: str = "a") -> list[Position]:
    """Publish, and return the positions."""
    outcomes = await it.publish(channel, *texts)
    assert all(isinstance(outcome, Published) for outcome in outcomes), outcomes
    return [outcome.position for outcome in outcomes if isinstance(outcome, Published)]


async def resume(it: Worker, since: Position, channel: str = "a") -> tuple[Beginning, list[str]]:
    """Return where a subscriber with this position begins, and what comes then."""
    page = await it.backend.read(channel, 0, 0, ALL)
    where = begin(Start(since=since), page.lineage, page.first, page.head)
    page = await it.backend.read(channel, where.cursor, 1000, ALL)
    return where, [message.data.decode() for message in page.messages]


async def is_a_gap(
    it: Worker, since: Position, following: Position, *texts: str, reason: Reason = Reason.AHEAD
) -> None:
    """Hold that a position leads to a gap before ``following``, which is that of the first of these messages."""
    where, found = await resume(it, since)
    assert where.gap == Gap(str(since), following, reason)
    assert found == list(texts)


async def goes_on(it: Worker, since: Position, *texts: str) -> None:
    """Hold that nothing is missing after a position."""
    where, found = await resume(it, since)
    assert where == Beginning(since.offset, resumed=True, gap=None)
    assert found == list(texts)


async def put_back(url: str, rewrite: Callable[[], Awaitable[object]]) -> None:
    """Hold that who had nine messages of a log that was put back to five is told which he has not seen."""
    async with worker(url) as it:
        old = await publish(it, *"6789")
        (live,) = await it.follow("a")
    await rewrite()
    async with worker(url) as it:
        await goes_on(it, Position(old[0].epoch, 5))
        where, _ = await resume(it, old[3])
        (live,) = await it.follow("a")
        new = await publish(it, "16", "17")
        assert where.gap == Gap(str(old[3]), new[0], Reason.AHEAD), "a gap that is told before anything comes"
        await is_a_gap(it, old[3], new[0], "16", "17")
        new += await publish(it, "18", "19", "20")
        await is_a_gap(it, old[3], new[0], "16", "17", "18", "19", "20")
        await goes_on(it, Position(old[0].epoch, 4), "5", "16", "17", "18", "19", "20")
        await goes_on(it, new[1], "18", "19", "20")
        assert await live.until(5) == [b"16", b"17", b"18", b"19", b"20"]
        assert live.faults == []


async def five(url: str) -> list[Position]:
    async with worker(url) as it:
        return await publish(it, *"12345")


async def test_a_restored_dump_is_told(url: str) -> None:
    """Subscriber with more than a restored dump has is told of a gap, and misses nothing of what the dump has not."""
    old = await five(url)
    text = await dump(url)
    await put_back(url, lambda: restore(url, text))
    async with worker(url) as it:
        (_, found) = await resume(it, old[4])
        assert found == ["16", "17", "18", "19", "20"]


async def test_a_dump_from_epochs_ago_is_told(postgres: PostgresServer, url: str) -> None:
    """Subscriber is told where a restored dump ends, though epochs began since of which the dump knows nothing."""
    old = await five(url)
    text = await dump(url)
    async with worker(url) as it:
        old += await publish(it, "6")
    for number in "78":
        await asyncio.to_thread(postgres.restart)
        async with worker(url) as it:
            await goes_on(it, old[2], *"4567"[: len(old) - 3])
            old += await publish(it, number)
    assert len({position.epoch for position in old}) == 3
    await restore(url, text)
    async with worker(url) as it:
        new = await publish(it, "16", "17", "18", "19")
        for position in old[5:]:
            await is_a_gap(it, position, new[0], "16", "17", "18", "19")
        await goes_on(it, Position(old[-1].epoch, 5), "16", "17", "18", "19")
        await goes_on(it, Position(old[-1].epoch, 2), *"345", "16", "17", "18", "19")


async def test_a_copy_beside_the_original_is_told_apart(postgres: PostgresServer, url: str, database: str) -> None:
    """Subscriber who goes from a copied database to the original, or back, is told what the other has not."""
    common = await five(url)
    copy = postgres.url(await postgres.create_database(template=database))
    async with worker(url) as one, worker(copy) as other:
        ours = await publish(one, "6", "7")
        theirs = await publish(other, "16", "17", "18")
        for it, since, first, texts in (
            (one, theirs, ours[0], ["6", "7"]),
            (other, ours, theirs[0], ["16", "17", "18"]),
        ):
            for position in since:
                await is_a_gap(it, position, first, *texts)
            await goes_on(it, common[4], *texts)
            await goes_on(it, Position(since[0].epoch, 5), *texts)
        await is_a_gap(other, Position("unknown", 3), theirs[0]._replace(offset=1), *"12345", "16", "17", "18",
                       reason=Reason.EPOCH)  # fmt: skip


@pytest.mark.parametrize(
    "statement",
    ["TRUNCATE abide.head, abide.log", "DELETE FROM abide.log; DELETE FROM abide.head"],
    ids=["TRUNCATE", "DELETE"],
)
async def test_an_emptied_log_is_told(url: str, sql: asyncpg.Connection, statement: str) -> None:
    """Subscriber of a log that was emptied is told of a gap, and gets all that comes, from 1 on."""
    old = await five(url)
    async with worker(url) as it:
        (reader,) = await it.follow("a")
        await sql.execute(statement)
        new = await publish(it, "11", "12")
        assert [position.offset for position in new] == [1, 2]
        assert await reader.until(2) == [b"11", b"12"]
        assert reader.turns == [(5, 0)]
        for position in old:
            await is_a_gap(it, position, new[0], "11", "12")
        new += await publish(it, *"345678")
        await is_a_gap(it, old[4], new[0], "11", "12", *"345678")
        await goes_on(it, new[1], *"345678")


async def test_a_snapshot_of_the_files_is_told() -> None:
    """Subscriber with more than the data folder that was put back is told; a crash and a restart tell nothing."""
    with PostgresServer() as server:
        url = server.url()
        await migrate(url)
        old = await five(url)
        await asyncio.to_thread(server.stop)
        saved = server.data.with_name("saved")
        await asyncio.to_thread(copy_folder, server.data, saved)
        await asyncio.to_thread(server.start)
        async with worker(url) as it:
            await goes_on(it, old[4])
            await goes_on(it, old[1], *"345")
        await asyncio.to_thread(server.crash)
        await asyncio.to_thread(server.start)

        def snapshot() -> None:
            server.stop()
            shutil.rmtree(server.data)
            saved.rename(server.data)
            server.start()

        await put_back(url, lambda: asyncio.to_thread(snapshot))
        async with worker(url) as it:
            await goes_on(it, old[4], "16", "17", "18", "19", "20")


async def test_a_dump_restored_under_a_running_worker_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker under which a dump is restored takes back what its readers had more, overtaken within one poll or not."""
    monkeypatch.setattr(listener, "_POLL_SECONDS", 60)
    async with worker(url) as it, worker(url) as other:
        old = await publish(it, *"12345")
        text = await dump(url)
        readers = [*await it.follow("a"), *await other.follow("a")]
        old += await publish(it, *"6789")
        for reader in readers:
            await reader.until(4)
        with capture_logs() as logs:
            await restore(url, text)
            new = await publish(it, "16", "17")
            assert new[0].offset == 6
            new += await publish(other, *("99",) * 7)
            for reader in readers:
                assert await reader.until(9) == [b"16", b"17", *[b"99"] * 7]
                assert reader.turns[-1] == (9, 5)
                assert reader.faults == []
        assert {"channel": "a", "had": 9, "common": 5}.items() <= next(
            line.items() for line in logs if line["event"] == "log_went_back"
        )
        await is_a_gap(it, old[8], new[0], "16", "17", *["99"] * 7)
        await healthy(it.backend)


async def test_a_schema_that_is_dropped_is_not_made_again(url: str, sql: asyncpg.Connection) -> None:
    """Worker whose schema is dropped says so, makes none, and serves the one that is restored, step by step."""
    async with worker(url) as it:
        old = await publish(it, *"12345")
        steps = await dump(url)
        old += await publish(it, *"678")
        (reader,) = await it.follow("a")
        await sql.execute("DROP SCHEMA abide CASCADE")
        assert "restore it, or run 'abide migrate'" in await says(it.backend, "the schema 'abide' is gone")
        assert not await sql.fetchval("SELECT to_regnamespace('abide')")
        before, _, after = steps.partition("\nALTER TABLE ONLY abide.log\n    ADD CONSTRAINT log_pkey")
        await program("psql", url, "-qX", "-v", "ON_ERROR_STOP=1", given=before)
        await says(it.backend, "a backup is being restored")
        with pytest.raises(UnavailableError):
            await it.backend.read("a", 0, 0, ALL)
        rest = "SET search_path = '';\nALTER TABLE ONLY abide.log\n    ADD CONSTRAINT log_pkey" + after
        await program("psql", url, "-qX", "-v", "ON_ERROR_STOP=1", given=rest)
        await healthy(it.backend)
        new = await publish(it, "16")
        await is_a_gap(it, old[7], new[0], "16")
        assert await reader.until(1) == [b"16"]
        assert reader.turns == [(8, 5)]


async def test_a_new_log_under_a_running_worker_is_followed(url: str, sql: asyncpg.Connection) -> None:
    """Worker whose schema is dropped and made again by an operator serves the new log, with a gap before all of it."""
    async with worker(url) as it:
        old = await publish(it, *"123")
        (reader,) = await it.follow("a")
        await sql.execute("DROP SCHEMA abide CASCADE")
        await says(it.backend, "is gone")
        await migrate(url)
        await healthy(it.backend)
        new = await publish(it, "11", "12")
        assert await reader.until(2) == [b"11", b"12"]
        for position in old:
            await is_a_gap(it, position, new[0], "11", "12", reason=Reason.EPOCH)


async def test_workers_born_while_the_schema_is_away_make_none(url: str, sql: asyncpg.Connection) -> None:
    """Worker that is born after another of its server has found the log makes none while it is away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Seen, "_shared", None)
        Seen.share()
        async with worker(url):
            pass
        await sql.execute("DROP SCHEMA abide CASCADE")
        async with worker(url, ready=False) as it:
            await says(it.backend, "is gone")
    assert not await sql.fetchval("SELECT to_regnamespace('abide')")


async def test_an_installation_without_its_row_is_said(url: str, sql: asyncpg.Connection) -> None:
    """Worker of a schema that was restored without its data says so."""
    await sql.execute("TRUNCATE abide.installation")
    async with worker(url, ready=False) as it:
        await says(it.backend, "abide.installation is empty: restore a backup")


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "doorbell"])
async def test_forged_notifications_are_no_more_than_hints(url: str, sql: asyncpg.Connection, inline: bool) -> None:  # noqa: FBT001 — pytest gives it
    """Worker is not led astray by doorbells that anybody may ring; without inline, nor by messages."""
    async with worker(url, inline=inline) as it:
        (reader,) = await it.follow("a")
        await sql.execute("SELECT pg_notify('abide', E'd\\na 1000000')")
        if not inline:
            await sql.execute("SELECT pg_notify('abide', E'i a 1 1 1700000000000\\n\"forged\"')")
        await sql.execute("SELECT pg_notify('abide', 'b'), pg_notify('abide', 'h nobody 7'), pg_notify('abide', '?')")
        await it.publish("a", "1")
        assert await reader.until(1) == [b"1"]
        await it.publish("a", "2")
        assert await reader.until(2) == [b"1", b"2"]
        assert reader.faults == []
        assert (await it.backend.health()).ok

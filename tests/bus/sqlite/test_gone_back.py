"""A file whose history was rewritten: restored, replaced, deleted or changed by hand."""

import asyncio
import contextlib
import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.core.errors import UnavailableError
from app.core.message import MAX_OFFSET, Position, Published, Record
from app.core.resume import Beginning, Reason, Start, begin
from tests.bus.sqlite.conftest import Run
from tests.support.readers import ALL, Worker, healthy, says, until


async def stored(worker: Worker, *texts: str, channel: str = "a") -> Position:
    """Publish the texts one by one; return the position of the last."""
    positions = []
    for text in texts:
        (outcome,) = await worker.publish(channel, text)
        assert isinstance(outcome, Published)
        positions.append(outcome.position)
    return positions[-1]


async def resumed(worker: Worker, since: Position, channel: str = "a") -> Beginning:
    """Return how a subscriber that comes back begins."""
    page = await worker.backend.read(channel, MAX_OFFSET, 0, ALL)
    return begin(Start(since=since), page.lineage, page.first, page.head)


def copy(path: Path) -> Path:
    """Copy the file while it is open, as an operator does."""
    made = path.with_name("copy.db")
    with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(made)) as target:
        source.backup(target)
    return made


async def test_a_restart_keeps_every_place(run: Run) -> None:
    """Subscriber comes back to its place after every worker has ended and another has begun, in a new epoch."""
    async with run() as worker:
        before = await stored(worker, "1", "2")
    async with run() as worker:
        assert (await resumed(worker, before)).gap is None
        after = await stored(worker, "3")
        assert after.offset == 3
        assert after.epoch != before.epoch
        assert (await resumed(worker, before)).gap is None


async def test_a_second_worker_begins_no_epoch(run: Run) -> None:
    """Worker that comes while another has the file open goes on in its epoch."""
    async with run("one") as one:
        before = await stored(one, "1")
        async with run("two") as two:
            assert await stored(two, "2") == Position(before.epoch, 2)
        assert await stored(one, "3") == Position(before.epoch, 3)


async def test_a_copy_restored_while_nothing_ran_is_a_gap(run: Run, path: Path) -> None:
    """Subscriber who had messages that a restored copy has not is told, and one who had not goes on."""
    async with run() as worker:
        early = await stored(worker, "1")
        made = copy(path)
        late = await stored(worker, "2")
    shutil.move(made, path)
    async with run() as worker:
        assert await stored(worker, "another") != late
        gap = (await resumed(worker, late)).gap
        assert gap is not None
        assert gap.reason == Reason.AHEAD
        assert (await resumed(worker, early)).gap is None


async def test_a_file_replaced_under_its_workers_is_noticed_by_all(run: Run, path: Path) -> None:
    """Workers let go of a file that another has replaced, serve the new one in a new epoch, and take back the rest."""
    async with run("one") as one, run("two") as two:
        readers = [*await one.follow("a"), *await two.follow("a")]
        await stored(one, "1")
        made = copy(path)
        late = await stored(two, "2")
        for reader in readers:
            await reader.until(2)
        with capture_logs() as logs:
            made.replace(path)
            await until(lambda: all(reader.turns == [(2, 1)] for reader in readers), "both have turned")
        assert [line["reason"] for line in logs if line["event"] == "file_lost"] != []
        for worker in (one, two):
            await healthy(worker.backend)
            gap = (await resumed(worker, late)).gap
            assert gap is not None
            assert gap.reason == Reason.AHEAD
        first = await stored(one, "another")
        assert await stored(two, "more") == Position(first.epoch, 3)
        for reader in readers:
            assert await reader.until(3) == [b"1", b"another", b"more"]
            assert reader.faults == []
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_the_log_ahead_of_a_file_that_is_gone_is_not_read_into_another(run: Run, path: Path) -> None:
    """Worker that finds the write-ahead log of workers that were killed, and another file, does not mix the two."""
    async with run() as worker:
        await stored(worker, "1")
        made = copy(path)
        late = await stored(worker, *[str(number) for number in range(2, 50)])
        wal = await asyncio.to_thread(Path(f"{path}-wal").read_bytes)
        lock = await asyncio.to_thread(Path(f"{path}-workers", "lock").read_text)
        inode = await asyncio.to_thread(Path(f"{path}-wal").stat)
    made.replace(path)
    await asyncio.to_thread(Path(f"{path}-wal").write_bytes, wal)  # as it lies there after kill -9
    now = await asyncio.to_thread(Path(f"{path}-wal").stat)
    text = lock.replace(f":{inode.st_ino}\n", f":{now.st_ino}\n")
    await asyncio.to_thread(Path(f"{path}-workers", "lock").write_text, text)
    async with run() as worker:
        assert await worker.backend.head("a") == 1
        assert (await resumed(worker, late)).gap is not None
        assert (await stored(worker, "2")).offset == 2


async def test_a_deleted_file_is_not_made_again(run: Run, path: Path) -> None:
    """Worker whose file was deleted refuses pushes and says so, until a copy is put back: nothing is begun anew."""
    async with run() as worker:
        before = await stored(worker, "1")
        made = copy(path)
        await asyncio.to_thread(path.unlink)
        await says(worker.backend, "was deleted while the server ran: put a copy back, or restart the server")
        assert not await asyncio.to_thread(path.exists)
        with pytest.raises(UnavailableError):
            await worker.backend.append([Record("a", b"2")], time.monotonic() + 0.2)
        await says(worker.backend, "was deleted while the server ran: put a copy back, or restart the server")
        made.replace(path)
        await healthy(worker.backend)
        assert (await resumed(worker, before)).gap is None
        assert (await stored(worker, "2")).offset == 2


@pytest.mark.parametrize("change", ["UPDATE head SET head = 1", "DELETE FROM head"])
async def test_heads_changed_by_hand_give_no_offset_twice(run: Run, path: Path, change: str) -> None:
    """Subscriber is told of a gap, or misses nothing, when somebody lowers or deletes a head under the server."""
    async with run() as worker:
        late = await stored(worker, "1", "2", "3")
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("DELETE FROM log")
            connection.execute(change)
        fresh = await stored(worker, "4")
        assert (fresh.epoch, fresh.offset) != (late.epoch, late.offset)
        assert fresh.offset > 3 or (await resumed(worker, late)).gap is not None


async def test_a_log_that_goes_back_under_its_workers_is_another_epoch(run: Run, path: Path) -> None:
    """Workers that know of more commits than the log has begin an epoch, and say that it has gone back."""
    async with run() as worker:
        (reader,) = await worker.follow("a")
        late = await stored(worker, "1", "2", "3")
        await reader.until(3)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.executescript(
                "BEGIN; DROP TRIGGER head_lowered; UPDATE head SET head = 2; DELETE FROM log WHERE last = 3;"
                "UPDATE installation SET commits = commits - 1; COMMIT"
            )
        fresh = await stored(worker, "another")
        assert fresh.offset == 3
        assert fresh.epoch != late.epoch
        assert (await resumed(worker, late)).gap is not None
        await until(lambda: reader.log == [b"1", b"2", b"another"], "the reader has what there is")

"""What can be wrong with the file: each is said by name, nothing is lost in silence, and it ends by itself."""

import asyncio
import contextlib
import os
import resource
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.bus.sqlite import SqliteBackend, refusal, store
from app.bus.sqlite.file import mounts
from app.bus.sqlite.file.open_file import open_file
from app.core.errors import UnavailableError
from app.core.message import Published, Record
from tests.bus.sqlite.conftest import Run
from tests.support.readers import ALL, Worker, healthy, says, worker_of
from tests.support.small_disk import SmallDisk


async def refused(worker: Worker, text: str = "x") -> UnavailableError:
    """Publish, and return the refusal."""
    (outcome,) = await worker.publish("a", text)
    assert isinstance(outcome, UnavailableError)
    return outcome


async def stored(worker: Worker, text: str) -> int:
    """Publish, and return the offset."""
    (outcome,) = await worker.publish("a", text)
    assert isinstance(outcome, Published)
    return outcome.position.offset


def test_what_speaks_against_a_path_is_said_by_name(tmp_path: Path) -> None:
    """Refusal names the folder or the file, and what is wrong with it."""
    text, other = tmp_path / "text", tmp_path / "other"
    text.write_text("no database, but long enough to be one")
    assert refusal(tmp_path / "log.db") is None
    assert refusal(tmp_path / "away" / "log.db") == (
        f"the folder {tmp_path}/away does not exist: create it, or correct the path"
    )
    assert f"{text} is not a folder" in str(refusal(text / "log.db"))
    assert f"{tmp_path} is not a file" in str(refusal(tmp_path))
    assert f"{text} is not a SQLite database" in str(refusal(text))
    other.touch()
    assert refusal(other) is None


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/", "ext4"), ("/data", "nfs4"), ("/data/local", "xfs"), ("/data/loc", "nfs4"), ("/my disk", "fuse.s3fs")],
)
def test_the_file_system_of_a_folder_is_known(folder: str, kind: str) -> None:
    """Type of a folder's file system is that of the mount which is nearest above it."""
    lines = [
        "27 1 254:0 / / rw,relatime - overlay none rw",
        "28 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard",
        "30 27 0:30 / /data rw shared:1 - nfs4 server:/export rw",
        "31 30 0:31 / /data/local rw - xfs /dev/vdb rw",
        "32 27 0:32 / /my\\040disk rw - fuse.s3fs s3fs rw",
    ]
    assert mounts.type_of(Path(folder), lines) == kind


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusal names the type of a file system that other machines may mount."""
    listed = tmp_path / "mountinfo"
    listed.write_text("30 27 0:30 / / rw - nfs4 server:/export rw\n")
    monkeypatch.setattr(mounts, "_MOUNTS", listed)
    assert f"{tmp_path} is on a network file system (nfs4)" in str(refusal(tmp_path / "log.db"))


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("PRAGMA user_version = 99", "was written by a later version of Abide (schema 99; this one knows 1)"),
        ("PRAGMA application_id = 7", "is a database of another program"),
    ],
)
async def test_a_file_that_is_not_ours_is_left_alone(run: Run, path: Path, statement: str, said: str) -> None:
    """Worker that finds a later schema, or another program's database, changes nothing and says so."""
    async with run():
        pass
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
    async with run(ready=False) as worker:
        assert said in await says(worker.backend, said)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1")
        connection.execute(f"PRAGMA application_id = {0x41626964}")


async def test_a_file_that_is_no_database_is_said(run: Run, path: Path) -> None:
    """Worker that finds something else at its path leaves it alone, and is ready when that is moved away."""
    await asyncio.to_thread(path.write_text, "no database, but long enough to be one " * 100)
    async with run(ready=False) as worker:
        await says(worker.backend, "file is not a database (SQLITE_NOTADB): restore a backup")
        await asyncio.to_thread(path.unlink)
        await healthy(worker.backend)


async def test_a_database_of_another_program_is_left_alone(run: Run, path: Path) -> None:
    """Worker that finds tables of somebody else makes none of its own."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    async with run(ready=False) as worker:
        await says(worker.backend, "is a database of another program: name another file")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("theirs",)]


async def test_another_machine_is_told_of_and_kept_away_from(run: Run, path: Path) -> None:
    """Worker that finds another machine's name in the lock lets go of the file, and does not take it back."""
    async with run() as worker:
        await stored(worker, "1")
        lock = Path(f"{path}-workers", "lock")
        mine = await asyncio.to_thread(lock.read_text)
        await asyncio.to_thread(lock.write_text, "another-life elsewhere\n1:2\n1:3\n")
        await says(worker.backend, "another machine (elsewhere) has opened it: stop one of the two servers")
        assert isinstance(await refused(worker), UnavailableError)
        await asyncio.to_thread(lock.write_text, mine)
        await healthy(worker.backend)


async def test_each_commit_is_on_the_disk(run: Run, path: Path, tmp_path: Path) -> None:
    """Message that was acknowledged is in the files as they lie there, and SQLite has waited for the disk."""
    (tmp_path / "copy").mkdir()
    async with run() as worker:
        await stored(worker, "acknowledged")
        for name in ("log.db", "log.db-wal"):
            shutil.copy(tmp_path / name, tmp_path / "copy" / name)
    with contextlib.closing(sqlite3.connect(tmp_path / "copy" / "log.db")) as connection:
        assert connection.execute("SELECT body FROM log").fetchall() == [(b"acknowledged",)]
    file = open_file(path, None, may_create=False)
    assert file.writer.execute("PRAGMA synchronous").fetchone() == (2,)
    file.close()
    file.claim.release()


async def test_a_folder_that_comes_later_is_enough(tmp_path: Path) -> None:
    """Worker whose folder is not there yet says so, and is ready by itself when it comes."""
    path = tmp_path / "disk" / "log.db"
    async with worker_of(SqliteBackend(path, retention=lambda _: ALL), ready=False) as worker:
        await says(worker.backend, f"the folder {tmp_path}/disk does not exist")
        path.parent.mkdir()
        await healthy(worker.backend)
        assert await stored(worker, "1") == 1


async def test_a_file_that_is_gone_until_the_deadline_is_said(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker whose file is gone says so also where the deadline comes before the last attempt is answered."""
    monkeypatch.setattr(store, "RETRY_SECONDS", 0.0)
    async with run() as worker:
        await asyncio.to_thread(path.unlink)
        with pytest.raises(UnavailableError):
            await worker.backend.append([Record("a", b"1")], time.monotonic() + 1.0)
        assert "was deleted while the server ran" in (await worker.backend.health()).detail


async def test_a_lock_of_another_program_is_waited_for_until_the_deadline(run: Run, path: Path) -> None:
    """Worker stores what it can once the lock is gone, refuses what waited too long, and says why."""
    async with run() as worker:
        await stored(worker, "1")
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            late = asyncio.ensure_future(worker.backend.append([Record("a", b"late")], deadline=time.monotonic() + 0.4))
            with pytest.raises(UnavailableError):
                await late
            await says(worker.backend, "database is locked (SQLITE_BUSY): another program holds a lock on it")
            waiting = asyncio.ensure_future(worker.publish("a", "2"))
            await asyncio.sleep(0)
            other.execute("ROLLBACK")
            (outcome,) = await waiting
            assert isinstance(outcome, Published)
            assert outcome.position.offset == 2
        await healthy(worker.backend)


async def test_a_full_disk_is_said_and_ends_by_itself() -> None:
    """Worker refuses what does not fit, is not ready meanwhile, and loses nothing that it stored."""
    with SmallDisk() as disk:
        path = disk.data / "log.db"
        async with worker_of(SqliteBackend(path, retention=lambda _: ALL)) as worker:
            (reader,) = await worker.follow("a")
            assert await stored(worker, "1") == 1
            disk.fill()
            while isinstance((await worker.publish("a", "x" * 50_000))[0], Published):
                pass
            assert "database or disk is full (SQLITE_FULL): free some space" in await says(worker.backend, str(path))
            kept = await worker.backend.head("a")
            await refused(worker, "x" * 50_000)
            disk.free()
            await healthy(worker.backend)
            assert await stored(worker, "2") == kept + 1
            assert (await reader.until(kept + 1))[-1] == b"2"
            assert reader.faults == []


@pytest.fixture
def file_size() -> Iterator[None]:
    """Let no file of this process grow beyond 512 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512 * 1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("file_size")
async def test_a_file_that_may_not_grow_refuses_and_goes_on(run: Run) -> None:
    """Worker that may write no larger file refuses what does not fit, without a doubt, and takes what fits."""
    async with run() as worker:
        kept = 0
        while isinstance(outcome := (await worker.publish("a", "x" * 50_000))[0], Published):
            kept += 1
        assert isinstance(outcome, UnavailableError)
        assert await worker.backend.head("a") == kept > 0
        assert await stored(worker, "1") == kept + 1


async def test_a_file_that_can_only_be_read_is_said(run: Run, path: Path) -> None:
    """Worker whose writes are refused is not ready, until they work again."""
    async with run() as worker:
        await stored(worker, "1")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TRIGGER no BEFORE UPDATE ON installation BEGIN SELECT raise(ABORT, 'read only'); END")
        async with run(ready=False) as worker:
            await says(worker.backend, "read only")
            other.execute("DROP TRIGGER no")
            await healthy(worker.backend)
            assert await stored(worker, "2") == 2
    assert os.access(path, os.W_OK)

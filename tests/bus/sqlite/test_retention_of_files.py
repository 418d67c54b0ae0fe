"""Retention of a file: what is deleted, by whom, and what becomes of the room."""

import contextlib
import fcntl
import sqlite3
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.bus.backend import KEY_LIFETIME
from app.bus.sqlite import retention
from app.bus.sqlite.file.open_file import Opened, open_file
from app.core.channel import HistoryWindow
from app.core.message import Published, Record
from app.core.resume import Reason, Start, begin
from tests.bus.sqlite.conftest import Run
from tests.support.readers import ALL, until

HOUR = HistoryWindow(size=1_000_000, ttl=3600)
THREE = HistoryWindow(size=3, ttl=3600)


@pytest.fixture(autouse=True)
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let retention have its turns at once, a little each time."""
    monkeypatch.setattr(retention, "_EVERY_SECONDS", 0.02)
    monkeypatch.setattr(retention, "_PAGE_CHANNELS", 3)
    monkeypatch.setattr(retention, "_BATCH_ROWS", 4)


def age(path: Path, seconds: float) -> None:
    """Make everything stored so far older."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for table in ("log", "key", "head"):
            connection.execute(f"UPDATE {table} SET time = time - {int(seconds * 1000)}")  # noqa: S608 — our own names


def count(path: Path, table: str) -> int:
    """Return how many rows a table has."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 — as above
    return int(rows)


def written(path: Path) -> int:
    """Return how many bytes the write-ahead log has."""
    return Path(f"{path}-wal").stat().st_size


async def test_what_no_history_shows_is_deleted_after_a_minute(run: Run, path: Path) -> None:
    """Retention deletes by size and by age, in any number of channels, and leaves alone what is young."""
    windows = {"c0": THREE, "c1": HOUR, "c2": HistoryWindow(size=0, ttl=60)}
    async with run(retention=lambda name: windows.get(name, THREE)) as worker:
        for number in range(10):
            await worker.backend.append([Record(f"c{channel}", b"%d" % number) for channel in range(8)])
        age(path, 30)
        await until(lambda: count(path, "log") == 80, "nothing is deleted yet")
        age(path, 31)
        await until(lambda: count(path, "log") == 6 * 3 + 10, "all but the newest are gone")
        page = await worker.backend.read("c0", 0, 100, ALL)
        assert [message.data for message in page.messages] == [b"7", b"8", b"9"]
        age(path, 3600)
        await until(lambda: count(path, "log") == 0, "everything is gone")


async def test_what_is_deleted_is_not_written_again(run: Run, path: Path) -> None:
    """Retention writes a small part of what it deletes."""
    async with run(retention=lambda _: THREE) as worker:
        for _ in range(43):
            await worker.publish("a", "x" * 50_000)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        age(path, 61)
        await until(lambda: count(path, "log") == 3, "forty are gone")
        assert written(path) < 40 * 50_000 / 2


async def test_keys_are_deleted_when_they_have_expired(run: Run, path: Path) -> None:
    """Retention deletes keys after ten minutes, and gives those of a clock that had jumped the present time."""
    async with run() as worker:
        await worker.backend.append([Record("a", b"1", f"k{number}") for number in range(10)])
        age(path, -3600)
        await until(lambda: count(path, "key WHERE time < 1000 * (unixepoch() + 60)") == 10, "they are of now")
        age(path, KEY_LIFETIME + 1)
        await until(lambda: count(path, "key") == 0, "they are gone")
        (outcome,) = await worker.publish("a", "2", key="k1")
        assert isinstance(outcome, Published)
        assert not outcome.replayed


async def test_an_idle_name_is_forgotten_and_gives_no_offset_twice(run: Run, path: Path) -> None:
    """Name that holds nothing is forgotten; it and new ones go on after it, and who comes back is told of a gap."""
    async with run(retention=lambda _: HistoryWindow(size=10, ttl=60)) as worker:
        (reader,) = await worker.follow("a")
        (outcome,) = await worker.publish("a", "1")
        (outcome,) = await worker.publish("a", "2")
        assert isinstance(outcome, Published)
        age(path, 200)
        await until(lambda: count(path, "head") == 0, "the name is forgotten")
        assert await worker.backend.head("new") == 2
        (fresh,) = await worker.publish("new", "3")
        assert isinstance(fresh, Published)
        assert fresh.position.offset == 3
        await worker.publish("a", "3")
        page = await worker.backend.read("a", 0, 10, ALL)
        assert (page.first, page.head) == (3, 3)
        gap = begin(Start(since=outcome.position._replace(offset=1)), page.lineage, page.first, page.head).gap
        assert gap is not None
        assert gap.reason == Reason.EXPIRED
        assert await reader.until(3) == [b"1", b"2", b"3"]


async def test_one_worker_at_a_time_deletes(run: Run, path: Path) -> None:
    """Worker whose neighbour has the turn leaves the work to it."""
    async with run("one") as one:
        await one.publish("a", "1")
        with Path(f"{path}-workers", "trim").open("w") as turn:  # noqa: ASYNC230 — it is there
            fcntl.flock(turn, fcntl.LOCK_EX)
            age(path, 100 * 24 * 3600)
            async with run("two", retention=lambda _: HOUR) as two:
                assert await two.backend.head("a") == 1
                for _ in range(5):
                    await two.publish("b", "1")
                assert count(path, "log WHERE time < 1000 * unixepoch() - 3600000") == 1
        await until(lambda: count(path, "log WHERE time < 1000 * unixepoch() - 3600000") == 0, "one of them deletes")


def opened(path: Path) -> Opened:
    """Open the file as a worker does."""
    return open_file(path, None, may_create=True)


def test_unused_room_is_given_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention makes the file shorter where a quarter of it is unused, a step each round."""
    monkeypatch.setattr(retention, "_FREE_PAGES", 10)
    file = opened(path)
    file.writer.execute("CREATE TABLE ballast (x)")
    file.writer.execute("INSERT INTO ballast VALUES (zeroblob(1000000))")
    file.writer.execute("DELETE FROM ballast")
    (before,) = file.writer.execute("PRAGMA page_count").fetchone()
    retention.give_back(file)
    (after,) = file.writer.execute("PRAGMA page_count").fetchone()
    assert after < before - 200
    file.close()
    file.claim.release()


def test_a_log_that_cannot_begin_anew_is_told_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention empties a write-ahead log that has grown, and tells once of a reader that is in the way."""
    monkeypatch.setattr(retention, "WAL_BYTES", 100_000)
    file, wal = opened(path), retention.WriteAheadLog()
    file.writer.execute("CREATE TABLE ballast (x)")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader, capture_logs() as logs:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM ballast").fetchone()
        for _ in range(3):
            file.writer.execute("INSERT INTO ballast VALUES (zeroblob(1000000))")
            wal.bound(file)
        assert [line["event"] for line in logs] == ["wal_grows"]
        reader.execute("ROLLBACK")
    wal.bound(file)
    assert Path(f"{path}-wal").stat().st_size == 0
    file.close()
    file.claim.release()

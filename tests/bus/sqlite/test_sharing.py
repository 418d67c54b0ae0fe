"""Several workers on one file: what one stores the others are handed, whatever happens to the word of it."""

import asyncio
import contextlib
import random
import socket
import time
from pathlib import Path

import pytest

from app.bus.sqlite import SqliteBackend
from app.bus.sqlite.file.turn import Turn
from app.core.channel import ACCESS
from app.core.errors import UnavailableError
from app.core.message import Published, Record
from tests.bus.sqlite.conftest import Run
from tests.support.readers import ALL, Ledger, Reader, Worker, until, worker_of


def sockets(path: Path) -> list[Path]:
    """Return the sockets of workers beside the file."""
    return sorted(Path(f"{path}-workers").glob("*.sock"))


async def test_every_worker_hears_what_any_stores(run: Run) -> None:
    """Workers hand out the messages of all, in order and once, and number them without gaps."""
    ledger = Ledger(1)
    async with run("one") as one, run("two") as two, run("three") as three:
        readers = [reader for worker in (one, two, three) for reader in await worker.follow("a", "b", ACCESS)]
        for number in range(60):
            worker = (one, two, three)[number % 3]
            large = 60_000 if number % 20 == 0 else 30  # more than a datagram carries
            await ledger.publish(worker, [Record(name, ledger.data(large)) for name in ("a", "b", ACCESS)])
        await ledger.check_log(one.backend, readers)


async def test_workers_that_store_at_once_take_turns(run: Run) -> None:
    """Workers that publish and come and go at a time lose and double nothing, and no offset comes twice."""
    ledger, chance = Ledger(2), random.Random(2)  # noqa: S311 — a test that can be repeated

    async def publish(worker: Worker) -> None:
        for _ in range(60):
            await ledger.publish(worker, [Record("a", ledger.data(chance.choice((5, 3000)))) for _ in range(4)])

    async with run("one") as one, run("two") as two:
        readers = [*await one.follow("a"), *await two.follow("a")]
        publishing = asyncio.gather(*(publish(worker) for worker in (one, two, one, two)))
        while not publishing.done():
            reader = Reader("passing", "b")
            await two.bus.follow("b", reader)
            await two.bus.unfollow("b")
        await publishing
        await ledger.check_log(one.backend, readers)
    assert len(readers[0].log) == 960


async def test_a_worker_waits_for_its_turn_until_the_deadline(run: Run, path: Path) -> None:
    """Worker refuses what waits too long behind a worker that is stopped in its turn, and stores what comes later."""
    async with run() as worker:
        other = Turn(Path(f"{path}-workers"))
        with contextlib.closing(other), other:
            with pytest.raises(UnavailableError):
                await worker.backend.append([Record("a", b"late")], deadline=time.monotonic() + 0.2)
            waiting = asyncio.ensure_future(worker.publish("a", "1"))
            await asyncio.sleep(0)
        (outcome,) = await waiting
        assert isinstance(outcome, Published)
        assert outcome.position.offset == 1


async def test_a_burst_reaches_every_worker(run: Run) -> None:
    """Workers are handed all of a burst of 10,000 messages, in order and once."""
    async with run("one") as one, run("two") as two:
        mine, theirs = *await one.follow("a"), *await two.follow("a")
        for begin in range(0, 10_000, 100):
            await one.backend.append([Record("a", b"%d" % number) for number in range(begin, begin + 100)])
        for reader in (mine, theirs):
            assert [int(text) for text in await reader.until(10_000)] == list(range(10_000))
            assert reader.faults == []


async def test_the_last_word_is_not_lost_on_a_full_queue(run: Run, path: Path) -> None:
    """Worker that could not be told anything for a while looks as soon as its queue has room."""
    async with run("one") as one:
        deaf = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        deaf.bind(str(Path(f"{path}-workers", "1-deaf.sock")))
        with contextlib.closing(deaf):
            for number in range(600):  # more than any queue holds
                await one.publish("a", str(number))
            deaf.settimeout(20)

            def drain() -> None:
                while deaf.recv(70_000) != b"?":
                    pass

            await asyncio.to_thread(drain)


async def test_the_socket_of_a_dead_worker_is_removed(run: Run, path: Path) -> None:
    """Worker that writes to a socket which nobody has open removes it."""
    async with run("one") as one:
        dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        dead.bind(str(Path(f"{path}-workers", "1-dead.sock")))
        dead.close()
        await one.publish("a", "1")
        assert [name.name for name in sockets(path) if "dead" in name.name] == []
        assert len(sockets(path)) == 1
    assert sockets(path) == []


async def test_a_worker_whose_socket_was_removed_makes_another(run: Run, path: Path) -> None:
    """Worker that nobody can wake any more notices by itself, and misses nothing."""
    async with run("one") as one, run("two") as two:
        (reader,) = await two.follow("a")
        for name in sockets(path):
            name.unlink()
        await one.publish("a", "1")
        assert await reader.until(1) == [b"1"]
        await until(lambda: len(sockets(path)) == 2, "both have sockets")


async def test_a_worker_that_hears_nothing_looks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker is handed what it was not told of."""
    async with run("one") as one, run("two") as two:
        (reader,) = await two.follow("a")
        monkeypatch.setattr(socket.socket, "sendto", lambda *_: 0)
        outcomes = await one.publish("a", "1")
        assert isinstance(outcomes[0], Published)
        assert await reader.until(1) == [b"1"]


async def test_a_folder_of_any_depth_will_do(tmp_path: Path) -> None:
    """Worker has its socket in a folder whose path is longer than a socket's may be."""
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    async with worker_of(SqliteBackend(deep / "log.db", retention=lambda _: ALL)) as worker:
        (reader,) = await worker.follow("a")
        await worker.publish("a", "1")
        assert await reader.until(1) == [b"1"]


async def test_what_was_taken_back_is_handed_out_before_what_came_after_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker that hears of a commit before an earlier one hands out nothing until it knows what that one was."""
    order: list[str] = []
    async with run("one") as one, run("two") as two, run("three") as three:
        readers = await three.follow("a", ACCESS)
        for reader in readers:
            monkeypatch.setattr(reader, "deliver", lambda batch: order.append(batch.channel))
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "sendto", lambda *_: 0)  # its word is under way
            await one.publish(ACCESS, "1")
        await two.publish("a", "2")
        await until(lambda: len(order) == 2, "both are handed out")
    assert order == [ACCESS, "a"]


async def test_a_worker_that_ends_while_it_opens_the_file_leaves_nothing(run: Run, path: Path) -> None:
    """Worker that ends at any moment of its start lets go of the file: the next one is the first again."""
    for turns in range(12):
        async with run(ready=False):
            for _ in range(turns):
                await asyncio.sleep(0.001)
    async with run() as worker:
        await worker.publish("a", "1")
        assert len(sockets(path)) == 1
    assert sockets(path) == []

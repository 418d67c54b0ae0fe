"""Redis that restarts, stalls, closes connections or takes no writes, while messages are published."""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial

import anyio.to_thread
import pytest
import redis

from app.bus.redis.sessions import subscriber
from app.bus.redis.sessions.faults import explain
from app.core.errors import OutcomeUnknownError, UnavailableError
from app.core.message import Published, Record
from tests.bus.redis.conftest import streams
from tests.support.proxy import FaultProxy
from tests.support.readers import ALL, Ledger, Worker, healthy, says, until
from tests.support.valkey import DURABLE, ValkeyServer

CHANNELS = ["a", "b", "c"]


class Crowd:
    """Publishers that send 1,000 messages a second together, some with keys."""

    def __init__(self, ledger: Ledger, workers: list[Worker]) -> None:
        self.ledger, self.workers = ledger, workers
        self.stopping = asyncio.Event()
        self.published = 0

    async def publish(self, number: int) -> None:
        """Publish about 50 messages a second until the end."""
        worker, serial = self.workers[number % len(self.workers)], 0
        while not self.stopping.is_set():
            serial += 1
            channel, data = self.ledger.random.choice(CHANNELS), self.ledger.data(self.ledger.random.choice([40, 9000]))
            if number % 2:
                await self.ledger.insist(worker, Record(channel, data, f"{number}-{serial}"))
                self.published += 1
            else:
                (outcome,) = await self.ledger.publish(worker, [Record(channel, data)])
                assert isinstance(outcome, Published | OutcomeUnknownError), repr(outcome)
                self.published += isinstance(outcome, Published)
            await asyncio.sleep(0.02)

    async def more(self, count: int) -> None:
        """Return when so many more were acknowledged."""
        goal = self.published + count
        await until(lambda: self.published >= goal, "publishers go on")


async def test_restarts_and_killed_connections_under_load_lose_and_double_nothing() -> None:
    """Workers whose server is killed twice, and whose connections are closed 50 times, lose and double nothing."""
    ledger = Ledger(41)
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(ValkeyServer(DURABLE))
        both = [await stack.enter_async_context(streams(server.url(), name)) for name in ("w0", "w1")]
        readers = [reader for it in both for reader in await it.follow(*CHANNELS)]
        crowd = Crowd(ledger, both)
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(crowd.publish(number))
            await crowd.more(200)
            for kill in (True, False):
                await anyio.to_thread.run_sync(partial(server.restart, kill=kill))
                ledger.note("restarted")
                await crowd.more(300)
            killed = 0
            while killed < 50:
                killed += await anyio.to_thread.run_sync(server.kill_connections)
                ledger.note(f"killed {killed}")
                await crowd.more(50)
            crowd.stopping.set()
        await ledger.check_log(both[0].backend, readers)
    assert ledger.refused == 0


async def test_a_connection_that_is_silent_for_ever_is_found_in_seconds(server: ValkeyServer) -> None:
    """Worker whose connections a router has forgotten makes others, and hands out what it did not hear."""
    async with (
        FaultProxy("127.0.0.1", server.port) as proxy,
        streams(server.url(), "other") as other,
        streams(f"redis-stream://127.0.0.1:{proxy.port}") as one,
    ):
        (reader,) = await one.follow("a")
        await one.publish("a", "1")
        await reader.until(1)
        proxy.forget()
        await other.publish("a", "2")
        assert await reader.until(2, seconds=15) == [b"1", b"2"]
        proxy.cut()


async def test_a_server_that_stalls_is_told_and_used_again(server: ValkeyServer) -> None:
    """Worker says that Redis does not answer, does not know what became of a commit, and goes on when it answers."""
    async with streams(server.url()) as one:
        (reader,) = await one.follow("a")
        server.pause()
        try:
            (outcome,) = await one.backend.append([Record("a", b"1")], time.monotonic() + 0.5)
            assert isinstance(outcome, OutcomeUnknownError)
            assert "no answer in time" in await says(one.backend, "no answer in time")
        finally:
            server.resume()
        await healthy(one.backend)
        await one.publish("a", "2")
        await until(lambda: b"2" in reader.log, "the next message comes")
        assert reader.log.count(b"1") <= 1
        assert not reader.faults


async def test_a_pause_of_clients_delays_a_commit(server: ValkeyServer) -> None:
    """Worker waits while clients are paused, and stores once."""
    async with streams(server.url()) as one:
        (reader,) = await one.follow("a")
        server.run("CLIENT", "PAUSE", 1000, "WRITE")
        assert [type(outcome) for outcome in await one.publish("a", "1")] == [Published]
        assert await reader.until(1) == [b"1"]


@pytest.mark.parametrize("where", ["", ". script: on @user_script:5", " script: 3f2a, on @user_script:33."])
def test_an_error_is_the_same_in_every_function(where: str) -> None:
    """Explanation of an error does not say in which line of our functions Redis had it, so that it is logged once."""
    words = "command not allowed when used memory > 'maxmemory'"
    assert explain(redis.ResponseError(words + where)) == explain(redis.ResponseError(words))


async def test_a_server_without_memory_refuses_messages_and_stores_none(server: ValkeyServer) -> None:
    """Worker refuses messages while Redis has reached maxmemory, says so, serves the log, and heals."""
    async with streams(server.url()) as one:
        await one.publish("a", "1")
        server.run("CONFIG", "SET", "maxmemory", 1)
        try:
            (outcome,) = await one.publish("a", "2")
            assert isinstance(outcome, UnavailableError)
            assert not isinstance(outcome, OutcomeUnknownError)
            assert "maxmemory" in await says(one.backend, "maxmemory")
            page = await one.backend.read("a", 0, 10, ALL)
            assert [message.data for message in page.messages] == [b"1"]
            (reader,) = await one.follow("new")
        finally:
            server.run("CONFIG", "SET", "maxmemory", 0)
        await healthy(one.backend)
        assert [outcome.position.offset for outcome in await one.publish("a", "3")] == [2]  # type: ignore[union-attr]
        await one.publish("new", "1")
        assert await reader.until(1) == [b"1"]


async def test_a_server_that_cannot_write_its_disk_refuses_messages() -> None:
    """Worker refuses messages while Redis cannot save, says that its disk takes nothing, and heals."""
    with ValkeyServer({"save": "3600 1", "enable-protected-configs": "local"}) as server:
        disk = server.folder / "disk"
        disk.mkdir()
        server.run("CONFIG", "SET", "dir", str(disk))
        async with streams(server.url()) as one:
            await one.publish("a", "1")
            disk.rmdir()
            await _save(server, "err")
            (outcome,) = await one.publish("a", "2")
            assert isinstance(outcome, UnavailableError)
            assert "disk" in await says(one.backend, "MISCONF")
            server.run("CONFIG", "SET", "dir", str(server.folder))
            await _save(server, "ok")
            await healthy(one.backend)
            assert [outcome.position.offset for outcome in await one.publish("a", "3")] == [2]  # type: ignore[union-attr]


async def _save(server: ValkeyServer, status: str) -> None:
    """Save in the background, until that has gone as expected."""

    async def saved() -> bool:
        with contextlib.suppress(redis.RedisError):
            server.run("BGSAVE")
        return bool(server.info("persistence")["rdb_last_bgsave_status"] == status)

    await until(saved, f"the background save is {status}")


async def test_functions_that_the_server_forgot_are_loaded_again(server: ValkeyServer) -> None:
    """Worker loads its functions again after SCRIPT FLUSH, in the middle of everything."""
    async with streams(server.url()) as one:
        (reader,) = await one.follow("a")
        for number in range(3):
            server.run("SCRIPT", "FLUSH")
            assert [type(outcome) for outcome in await one.publish("a", str(number))] == [Published]
        server.run("SCRIPT", "FLUSH")
        assert (await one.backend.read("a", 0, 10, ALL)).head == 3
        assert await reader.until(3) == [b"0", b"1", b"2"]


async def test_a_burst_of_ten_thousand_is_handed_out_whole(server: ValkeyServer) -> None:
    """Worker loses nothing of a burst of 10,000, of which much is too large to be heard."""
    ledger = Ledger(42)
    async with streams(server.url()) as one, streams(server.url(), "other") as other:
        readers = [reader for it in (one, other) for reader in await it.follow(*CHANNELS)]
        batches = [
            [Record(ledger.random.choice(CHANNELS), ledger.data(ledger.random.choice([20, 2000]))) for _ in range(500)]
            for _ in range(20)
        ]
        async with asyncio.TaskGroup() as group:
            for number, batch in enumerate(batches):
                group.create_task(ledger.publish((one, other)[number % 2], batch))
        await ledger.check_log(one.backend, readers)


async def test_a_channel_that_is_left_and_joined_again_misses_nothing(server: ValkeyServer) -> None:
    """Worker that unfollows and follows while others publish is handed everything after the position it began at."""
    async with streams(server.url()) as one, streams(server.url(), "other") as other:
        stopping = asyncio.Event()

        async def publish() -> None:
            while not stopping.is_set():
                await other.publish("a", "1")

        async with asyncio.TaskGroup() as group:
            group.create_task(publish())
            for _ in range(30):
                (reader,) = await one.follow("a")
                await reader.until(2)
                assert not reader.faults
                await one.bus.unfollow("a")
            readers = await asyncio.gather(*(one.follow(f"b{number}") for number in range(200)))
            await asyncio.gather(*(one.bus.unfollow(f"b{number}") for number in range(200)))
            stopping.set()
        assert len(readers) == 200
        await until(lambda: _topics(server) <= 2, "only the topics of beats are left")


def _topics(server: ValkeyServer) -> int:
    return len(server.run("PUBSUB", "CHANNELS"))


async def test_a_subscription_that_is_never_answered_is_asked_for_again(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker whose connection falls silent before its first subscription is answered makes another one."""
    monkeypatch.setattr(subscriber, "DEAF_SECONDS", 0.5)
    async with FaultProxy("127.0.0.1", server.port) as relay:
        relay.forge(b"*2\r\n$9\r\nSUBSCRIBE", b"*9\r\n$9\r\nSUBSCRIBE")  # it waits for more words
        async with streams(f"redis-stream://127.0.0.1:{relay.port}", ready=False) as one:
            await says(one.backend, "no answer in time")
            relay.heal()
            await healthy(one.backend)


async def test_a_server_that_is_away_at_the_start_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Worker begins without Redis, refuses with one line that says where, and is ready when Redis has come."""
    server = ValkeyServer()
    with contextlib.closing(server):
        async with streams(server.url(), ready=False) as one:
            with pytest.raises(UnavailableError):
                await one.backend.append([Record("a", b"1")], time.monotonic() + 0.1)
            assert f"no connection to {server.place}" in await says(one.backend, "Connection refused")
            await anyio.to_thread.run_sync(server.start)
            await healthy(one.backend)
            assert [type(outcome) for outcome in await one.publish("a", "1")] == [Published]
    assert len([line for line in capsys.readouterr().out.splitlines() if "not_listening" in line]) == 1

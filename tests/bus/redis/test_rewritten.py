"""Redis that lost messages: no position ever means another message, and nobody misses one without being told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import anyio.to_thread
import pytest
import redis.asyncio

from app.core.epochs import shared
from app.core.errors import KeyReusedError, UnavailableError
from app.core.message import Position, Published, Record
from tests.bus.redis.conftest import streams
from tests.support.readers import ALL, Worker, healthy, says, until
from tests.support.valkey import SentinelSet, ValkeyServer


async def published(worker: Worker, *texts: str, channel: str = "a") -> list[Position]:
    """Publish, and return the positions."""
    outcomes = await worker.publish(channel, *texts)
    assert all(isinstance(outcome, Published) for outcome in outcomes), outcomes
    return [outcome.position for outcome in outcomes if isinstance(outcome, Published)]


async def texts(worker: Worker, channel: str = "a") -> list[str]:
    """Return the whole log."""
    page = await worker.backend.read(channel, 0, 1000, ALL)
    return [message.data.decode() for message in page.messages]


async def has(worker: Worker, position: Position, channel: str = "a") -> int | None:
    """Return up to which offset a reader at the position has what the log has."""
    page = await worker.backend.read(channel, 0, 0, ALL)
    return shared(position, page.lineage, page.head)


async def test_a_restart_without_persistence_is_told_and_gives_no_position_twice() -> None:
    """Worker takes back what Redis lost in a restart, and positions of the lost messages are gaps."""
    with ValkeyServer() as server:
        async with streams(server.url()) as one:
            (reader,) = await one.follow("a")
            old = await published(one, "1", "2", "3")
            await reader.until(3)
            await anyio.to_thread.run_sync(lambda: server.restart(kill=True))
            await healthy(one.backend)
            new = await published(one, "4", "5")
            await until(lambda: reader.log == [b"4", b"5"], "the new log has come")
            assert reader.turns[-1][1] == 0 or (3, 0) in reader.turns
            assert [position.offset for position in new] == [1, 2]
            assert await has(one, old[1]) in (None, 0)
            assert await has(one, new[1]) == 2


async def test_a_flushed_database_is_a_loss_though_the_process_is_the_same(server: ValkeyServer) -> None:
    """Worker takes back what FLUSHALL deleted, and no old position is one of the new log."""
    async with streams(server.url()) as one:
        (reader,) = await one.follow("a")
        old = await published(one, "1", "2", "3")
        await reader.until(3)
        server.run("FLUSHALL")
        new = await published(one, "4", "5")
        await until(lambda: reader.log == [b"4", b"5"], "the new log has come")
        assert await has(one, old[0]) in (None, 0)
        assert await has(one, new[1]) == 2


async def test_a_gap_after_a_flush_names_the_position_of_the_next_message(server: ValkeyServer) -> None:
    """Worker begins the epoch of a channel that is gone before it tells of the loss: the next message is of it."""
    async with streams(server.url()) as one:
        (reader,) = await one.follow("a")
        await published(one, "1", "2", "3")
        await reader.until(3)
        server.run("FLUSHALL")
        await until(lambda: reader.turns, "the loss is told")
        await published(one, "4")
        await until(lambda: reader.log == [b"4"], "the new message alone")
        assert reader.turns == [(3, 0)], "nothing changes again with the next message"


async def test_an_evicted_head_gives_no_offset_twice(server: ValkeyServer) -> None:
    """Worker goes on behind the last offset of a stream whose head is gone, in another epoch."""
    async with streams(server.url()) as one:
        old = await published(one, "1", "2")
        server.run("DEL", "abide:{a}:head")
        new = await published(one, "3")
        assert new[0].offset == 3
        assert new[0].epoch != old[0].epoch
        assert await texts(one) == ["1", "2", "3"]


async def test_an_evicted_stream_is_a_hole_that_is_shown(server: ValkeyServer) -> None:
    """Worker reads nothing of a stream that is gone, and says where the history begins."""
    async with streams(server.url()) as one:
        await published(one, "1", "2")
        server.run("DEL", "abide:{a}:log")
        page = await one.backend.read("a", 0, 10, ALL)
        assert (page.first, page.head, page.messages) == (3, 2, ())
        assert [position.offset for position in await published(one, "3")] == [3]
        assert (await one.backend.read("a", 0, 10, ALL)).first == 3


async def test_a_head_that_was_lowered_by_hand_gives_no_offset_twice(server: ValkeyServer) -> None:
    """Worker goes on behind the stream where somebody lowered the head."""
    async with streams(server.url()) as one:
        old = await published(one, "1", "2", "3")
        server.run("HSET", "abide:{a}:head", "head", "1")
        new = await published(one, "4")
        assert new[0].offset == 4
        assert await has(one, old[2]) == 3


async def test_a_restart_that_lost_nothing_opens_an_epoch_and_makes_no_gap(server: ValkeyServer) -> None:
    """Worker goes on after a restart in another epoch, to which all earlier positions belong."""
    async with streams(server.url()) as one:
        (reader,) = await one.follow("a")
        old = await published(one, "1", "2")
        await anyio.to_thread.run_sync(server.restart)
        await healthy(one.backend)
        new = await published(one, "3")
        assert await reader.until(3) == [b"1", b"2", b"3"]
        assert new[0].epoch != old[0].epoch
        assert [await has(one, position) for position in (*old, *new)] == [1, 2, 3]


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[ValkeyServer, ValkeyServer]]:
    """Start two servers, each of which can be the other's replica."""
    with ValkeyServer() as one, ValkeyServer() as other:
        yield one, other


def _follows(replica: ValkeyServer, primary: ValkeyServer) -> None:
    replica.run("REPLICAOF", "127.0.0.1", primary.port)
    replica.wait_until(lambda: replica.info("replication")["master_link_status"] == "up")


async def test_a_primary_that_comes_back_after_it_lost_its_tail_has_another_epoch(
    pair: tuple[ValkeyServer, ValkeyServer],
) -> None:
    """Worker gives no position twice where a primary is made a replica that lags, and then the primary again.

    The process is the same, and the log has the head that it had at some time: only the term differs.
    """
    primary, other = pair
    async with streams(primary.url()) as one:
        (reader,) = await one.follow("a")
        await published(one, "1")
        await anyio.to_thread.run_sync(_follows, other, primary)
        other.run("REPLICAOF", "NO", "ONE")
        old = await published(one, "2", "3")
        await reader.until(3)
        await anyio.to_thread.run_sync(_follows, primary, other)
        (outcome,) = await one.backend.append([Record("a", b"refused")], time.monotonic() + 0.5)
        assert isinstance(outcome, UnavailableError)
        assert "replica" in await says(one.backend, "read only replica")
        primary.run("REPLICAOF", "NO", "ONE")
        await healthy(one.backend)
        new = await published(one, "4", "5")
        await until(lambda: reader.log == [b"1", b"4", b"5"], "the new log has come")
        assert await texts(one) == ["1", "4", "5"]
        assert [await has(one, position) for position in old] == [1, 1]
        assert [await has(one, position) for position in new] == [2, 3]


async def test_a_failover_is_followed_and_its_loss_is_told() -> None:
    """Worker finds the new primary by the sentinel, takes back what that did not have, and goes on."""
    with SentinelSet() as trio:
        async with streams(trio.url()) as one:
            (reader,) = await one.follow("a")
            kept = await published(one, "1")
            trio.primary.run("WAIT", 1, 5000)
            trio.replica.run("REPLICAOF", "127.0.0.1", 1)  # it hears nothing more
            lost = await published(one, "2", "3")
            await reader.until(3)
            trio.primary.kill()
            await anyio.to_thread.run_sync(trio.wait_for_failover)
            await healthy(one.backend, seconds=30)
            new = await published(one, "4")
            await until(lambda: reader.log == [b"1", b"4"], "the new log has come")
            assert [await has(one, position) for position in (*kept, *lost, *new)] == [1, 1, 1, 2]


async def test_messages_that_others_publish_are_looked_up(server: ValkeyServer) -> None:
    """Worker takes no message from a publication that no commit has sealed, nor one that was sealed before."""
    async with streams(server.url()) as one, redis.asyncio.Redis(port=server.port).pubsub() as topics:
        (reader,) = await one.follow("a")
        await topics.subscribe("abide:0:{a}")
        await published(one, "1")
        await reader.until(1)
        sealed = await _next(topics)
        epoch = (await one.backend.read("a", 0, 0, ALL)).lineage[:8]
        server.run("PUBLISH", "abide:0:{a}", f"e {'0' * 40} {epoch} 2 1 1700000000000\nforged")
        server.run("PUBLISH", "abide:0:{a}", sealed)
        server.run("PUBLISH", "abide:0:{a}", sealed.replace(b" 1 1 ", b" 2 1 "))
        server.run("PUBLISH", "abide:0:{a}", "d 9007199254740991")
        server.run("PUBLISH", "abide:0:{a}", b"\xff\n" * 10)
        await published(one, "2")
        assert await reader.until(2) == [b"1", b"2"]
        assert not reader.faults


async def _next(topics: redis.asyncio.client.PubSub) -> bytes:
    """Return the next publication that is heard."""
    async with asyncio.timeout(20):
        while (message := await topics.get_message(ignore_subscribe_messages=True, timeout=1)) is None:
            pass
    data: bytes = message["data"]
    return data


async def test_a_key_holds_across_workers_and_restarts(server: ValkeyServer) -> None:
    """Worker answers a key that another one has used before a restart with the first position."""
    record = Record("a", b"1", "order-17", "me")
    async with streams(server.url()) as one:
        (first,) = await one.bus.publish([record])
    await anyio.to_thread.run_sync(server.restart)
    async with streams(server.url(), "other") as other:
        again, changed = await other.bus.publish([record, record._replace(data=b"2", key="order-18")])
        (refused,) = await other.bus.publish([record._replace(data=b"3")])
    assert isinstance(first, Published)
    assert isinstance(again, Published)
    assert (again.replayed, again.position.offset) == (True, first.position.offset)
    assert isinstance(changed, Published)
    assert isinstance(refused, KeyReusedError)

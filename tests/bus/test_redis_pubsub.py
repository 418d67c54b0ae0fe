"""Live messages through pub/sub of Redis, and the log of the server's own channels beside it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from app.bus.redis.pubsub import PubSubBackend, hearing
from app.core.channel import ACCESS, TICKETS
from app.core.errors import KeyReusedError, OutcomeUnknownError, UnavailableError
from app.core.message import Batch, Loss, Message, News, Page, Position, Published, Record
from app.core.ports import Outcome
from tests.bus.conformance import ALL
from tests.bus.test_postgres import healthy
from tests.support.valkey import ValkeyServer

CONFIGURATION = Path(__file__).parents[2] / "docs" / "configuration.md"
PUBLISHED = Published(Position("", 0))


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
async def backend(server: ValkeyServer) -> AsyncIterator[PubSubBackend]:
    server.run("FLUSHALL")
    async for backend in connected(server):
        yield backend


@pytest.fixture
async def other(server: ValkeyServer) -> AsyncIterator[PubSubBackend]:
    """Another worker."""
    async for backend in connected(server):
        yield backend


async def connected(server: ValkeyServer) -> AsyncIterator[PubSubBackend]:
    backend = PubSubBackend(server.url("redis"), retention=lambda _: ALL)
    await backend.connect()
    await healthy(backend)
    yield backend
    await backend.disconnect()


def records(channel: str, *texts: str, key: str | None = None) -> list[Record]:
    return [Record(channel, text.encode(), key) for text in texts]


async def news(backend: PubSubBackend) -> News:
    async with asyncio.timeout(20):
        return await backend.next_batch()


async def texts(backend: PubSubBackend, count: int) -> list[str]:
    """Return the data of so many messages of one channel."""
    found: list[str] = []
    while len(found) < count:
        batch = await news(backend)
        assert isinstance(batch, Batch)
        found += [message.data.decode() for message in batch.messages]
    return found


async def test_every_worker_hears_what_any_of_them_publishes(backend: PubSubBackend, other: PubSubBackend) -> None:
    """PubSubBackend hands a channel's messages to all that follow it, in order, byte for byte, with no positions."""
    assert (await backend.follow("a")).text is None
    await other.follow("a")
    odd = ['"\\u0000"', '"é\u2028"', ' { "a" : 1.0e5 } ', '"' + "é" * 500_000 + '"', "[\n\t1\r\n]"]
    assert await backend.append(records("a", *odd)) == [PUBLISHED] * 5
    await other.append(records("a", "6"))
    for each in (backend, other):
        assert await texts(each, 6) == [*odd, "6"]
    assert await backend.read("a", 0, 100, ALL) == Page(7, 6, (), "")


async def test_offsets_go_on_and_times_never_run_back(backend: PubSubBackend) -> None:
    """PubSubBackend numbers what it hands out without gaps, and never twice the same in one process."""
    await backend.follow("a")
    for number in range(20):
        await backend.append(records("a", f"{number}", f"{number}"))
    messages: list[Message] = []
    while len(messages) < 40:
        batch = await news(backend)
        assert isinstance(batch, Batch)
        messages += batch.messages
    assert all(one.offset + 1 == two.offset and one.time <= two.time for one, two in pairwise(messages))
    assert messages[0].time > 1_600_000_000_000
    await backend.unfollow("a")
    assert (await backend.follow("a")).offset == (await backend.follow("b")).offset == 40


async def test_channels_are_kept_apart(backend: PubSubBackend) -> None:
    """PubSubBackend hands out nothing of a channel that is not followed, or no more."""
    for channel in ("a", "b"):
        await backend.follow(channel)
    await backend.unfollow("a")
    await backend.append([*records("a", "1"), *records("c", "2"), *records("b", "3")])
    batch = await news(backend)
    assert isinstance(batch, Batch)
    assert (batch.channel, [message.data for message in batch.messages]) == ("b", [b"3"])


async def test_races_of_following_lose_nothing_later(backend: PubSubBackend, other: PubSubBackend) -> None:
    """PubSubBackend hands out what is published after a channel was followed, however often it was left before."""
    for number in range(30):
        leaving = asyncio.create_task(backend.follow("a"))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        publishing = asyncio.create_task(other.append(records("a", '"early"')))
        await backend.follow("a")
        await publishing
        await other.append(records("a", f"{number}"))
        while (await texts(backend, 1))[-1] == '"early"':
            pass
        await backend.unfollow("a")


async def test_a_flood_comes_whole_and_in_order(backend: PubSubBackend, other: PubSubBackend) -> None:
    """PubSubBackend loses and doubles nothing of ten thousand messages at once in many channels."""
    channels = [f"c{number}" for number in range(20)]
    await asyncio.gather(*map(other.follow, channels))
    seen: dict[str, list[str]] = {channel: [] for channel in channels}

    async def collect() -> None:
        while sum(map(len, seen.values())) < 10_000:
            batch = await news(other)
            assert isinstance(batch, Batch)
            seen[batch.channel] += [message.data.decode() for message in batch.messages]

    collecting = asyncio.create_task(collect())
    for number in range(10):
        await backend.append([Record(channel, b"%d" % (number * 50 + at)) for at in range(50) for channel in channels])
    await collecting
    assert all(found == list(map(str, range(500))) for found in seen.values())


async def test_a_key_publishes_its_message_once(backend: PubSubBackend, other: PubSubBackend) -> None:
    """PubSubBackend answers a repeated key without another publication, in one batch, and over several workers."""
    await backend.follow("a")
    first = await backend.append([*records("a", "1", "1", key="k"), *records("a", "2"), *records("a", "3", key="l")])
    assert first == [PUBLISHED, PUBLISHED._replace(replayed=True), PUBLISHED, PUBLISHED]
    again = await other.append([*records("a", "1", key="k"), *records("b", "1", key="k")])
    assert again == [PUBLISHED._replace(replayed=True), PUBLISHED]
    (refused, stranger) = await other.append([*records("a", "4", key="k"), Record("a", b"5", "k", "somebody")])
    assert isinstance(refused, KeyReusedError)
    assert stranger == PUBLISHED
    assert await texts(backend, 4) == ["1", "2", "3", "5"]


async def test_keys_are_remembered_for_ten_minutes(backend: PubSubBackend, server: ValkeyServer) -> None:
    """PubSubBackend leaves an idempotency key in Redis, which forgets it by itself."""
    await backend.append(records("a", "1", key="k"))
    (key,) = server.run("KEYS", "abide:live:key:*")
    assert 590_000 < server.run("PTTL", key) <= 600_000


@pytest.mark.parametrize("how", ["killed", "restarted"])
async def test_a_lost_connection_is_a_loss_in_each_channel(
    backend: PubSubBackend, other: PubSubBackend, server: ValkeyServer, how: str
) -> None:
    """PubSubBackend hands out what it heard, a loss without waiting for a message, and then what comes."""
    await backend.follow("a")
    await backend.follow("b")
    await backend.append(records("a", "1"))
    assert await texts(backend, 1) == ["1"]
    if how == "killed":
        server.kill_connections()
    else:
        await asyncio.to_thread(server.restart, kill=True)
    losses = [await news(backend), await news(backend)]
    assert sorted(loss.channel for loss in losses if isinstance(loss, Loss)) == ["a", "b"]
    assert await published(other, "a", "2") == PUBLISHED
    assert await texts(backend, 1) == ["2"]


async def published(backend: PubSubBackend, channel: str, text: str) -> Published:
    """Publish until that is answered with what became of it."""
    async with asyncio.timeout(20):
        while True:
            (outcome,) = await backend.append(records(channel, text))
            if isinstance(outcome, Published):
                return outcome
            assert isinstance(outcome, OutcomeUnknownError | UnavailableError)


async def test_what_is_followed_while_nothing_is_heard_is_lost_too(server: ValkeyServer) -> None:
    """PubSubBackend of a Redis that comes late follows when it is there, and tells of no loss before."""
    await asyncio.to_thread(server.stop)
    backend = PubSubBackend(server.url("redis"), retention=lambda _: ALL)
    await backend.connect()
    following = asyncio.create_task(backend.follow("a"))
    with pytest.raises(UnavailableError) as refused:
        await backend.append(records("a", "0"), asyncio.get_running_loop().time() + 0.3)
    assert not isinstance(refused.value, OutcomeUnknownError)
    health = await backend.health()
    assert not health.ok
    assert server.place in health.detail
    await asyncio.to_thread(server.start)
    await following
    await healthy(backend)
    await backend.append(records("a", "1"))
    while not isinstance(batch := await news(backend), Batch):
        pass
    assert [message.data for message in batch.messages] == [b"1"]
    await backend.disconnect()


async def test_a_stalled_server_leaves_the_outcome_unknown(backend: PubSubBackend, server: ValkeyServer) -> None:
    """PubSubBackend answers at the deadline that a message may be published, and hears again what comes after."""
    await backend.follow("a")
    server.pause()
    try:
        (outcome,) = await backend.append(records("a", "1"), asyncio.get_running_loop().time() + 0.5)
    finally:
        server.resume()
    assert isinstance(outcome, OutcomeUnknownError)
    await published(backend, "a", "2")
    found: list[News] = []
    while not (found and isinstance(found[-1], Batch) and found[-1].messages[-1].data == b"2"):
        found.append(await news(backend))


async def test_a_paused_server_delays_and_loses_nothing(backend: PubSubBackend, server: ValkeyServer) -> None:
    """PubSubBackend waits for a server that lets its clients wait for a moment."""
    await backend.follow("a")
    server.run("CLIENT", "PAUSE", 300, "ALL")
    assert await backend.append(records("a", "1")) == [PUBLISHED]
    assert await texts(backend, 1) == ["1"]


async def test_a_server_without_memory_publishes_what_needs_none(backend: PubSubBackend, server: ValkeyServer) -> None:
    """PubSubBackend of a Redis at its maxmemory publishes messages without a key, and refuses those with one."""
    await backend.follow("a")
    server.run("CONFIG", "SET", "maxmemory", 1)
    try:
        outcomes = await backend.append([*records("a", "1"), *records("a", "2", key="k"), *records("a", "3")])
    finally:
        server.run("CONFIG", "SET", "maxmemory", 0)
    assert [type(outcome) for outcome in outcomes] == [Published, UnavailableError, Published]
    assert await texts(backend, 2) == ["1", "3"]


async def test_a_replica_takes_no_messages(server: ValkeyServer) -> None:
    """PubSubBackend of a server that became a replica refuses to publish: nobody else would hear it."""
    with ValkeyServer() as primary:
        backend = PubSubBackend(primary.url("redis"), retention=lambda _: ALL)
        await backend.connect()
        await healthy(backend)
        primary.run("REPLICAOF", "127.0.0.1", server.port)
        outcome: Outcome = OutcomeUnknownError("")
        while isinstance(outcome, OutcomeUnknownError):  # an answer may be under way when the time is over
            (outcome,) = await backend.append(records("a", "1"), asyncio.get_running_loop().time() + 0.3)
        assert isinstance(outcome, UnavailableError)
        primary.run("REPLICAOF", "NO", "ONE")
        assert await published(backend, "a", "2") == PUBLISHED
        await backend.disconnect()


async def test_a_subscriber_that_the_server_cuts_off_is_told_of_a_loss(server: ValkeyServer) -> None:
    """PubSubBackend whose connection Redis closes, because too much waits for it, tells of a loss and goes on."""
    async for backend in connected(server):
        await backend.follow("a")
        server.run("CONFIG", "SET", "client-output-buffer-limit", "pubsub 100kb 0 0")
        try:
            while not server.info("stats")["client_output_buffer_limit_disconnections"]:  # this loop does not read yet
                server.run("PUBLISH", "abide:live:0:a", b"1700000000000\x1e" + b"1" * 1_000_000)
            found = [await news(backend)]
            while not isinstance(found[-1], Loss):
                found.append(await news(backend))
        finally:
            server.run("CONFIG", "SET", "client-output-buffer-limit", "pubsub 32mb 8mb 60")
        await published(backend, "a", "2")
        assert (await texts(backend, 1))[-1:] == ["2"]


async def test_what_waits_to_be_handed_out_is_bounded(
    backend: PubSubBackend, other: PubSubBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PubSubBackend that is not asked for what it heard drops what comes above its bound, and tells of the loss."""
    monkeypatch.setattr(hearing, "MAX_HELD_BYTES", 100_000)
    await backend.follow("a")
    await other.follow("a")
    for number in range(100):
        await other.append(records("a", f"{number}".ljust(5000)))
        assert (await texts(other, 1))[0].strip() == f"{number}"
    assert backend.held < 110_000
    found: list[News] = []
    while not (found and isinstance(found[-1], Loss)):
        found.append(await news(backend))
    await other.append(records("a", "101"))
    while (await texts(backend, 1))[-1] != "101":  # what came after those that were dropped is handed out before
        pass


async def test_a_user_needs_no_more_than_the_manual_says(server: ValkeyServer) -> None:
    """PubSubBackend works for a user with the rights that docs/configuration.md names."""
    rules = re.search(r"needs `(~abide[^`]*)`", CONFIGURATION.read_text(encoding="utf-8"))
    assert rules is not None
    server.run("ACL", "SETUSER", "limited", "on", ">right", *rules[1].split())
    backend = PubSubBackend(f"redis://limited:right@{server.place}", retention=lambda _: ALL)
    await backend.connect()
    await healthy(backend)
    await backend.follow("a")
    assert await backend.append([*records("a", "1", key="k"), *records("a", "2")]) == [PUBLISHED, PUBLISHED]
    assert await texts(backend, 2) == ["1", "2"]
    (stored,) = await backend.append(records(TICKETS, "1"))
    assert isinstance(stored, Published)
    assert [message.data for message in (await backend.read(TICKETS, 0, 10, ALL)).messages][-1:] == [b"1"]
    await backend.disconnect()


async def test_a_wrong_password_is_said_without_it(server: ValkeyServer) -> None:
    """PubSubBackend that is not let in says so, and where, and shows no password."""
    server.run("ACL", "SETUSER", "me", "on", ">right", "~*", "&*", "+@all")
    backend = PubSubBackend(f"redis://me:hunter2@{server.place}", retention=lambda _: ALL)
    await backend.connect()
    async with asyncio.timeout(20):
        while "password" not in (detail := (await backend.health()).detail):  # noqa: ASYNC110 — as in healthy
            await asyncio.sleep(0.01)
    assert server.place in detail
    assert "hunter2" not in detail + repr(backend)
    await backend.disconnect()


async def test_databases_of_one_server_hear_nothing_of_each_other(backend: PubSubBackend, server: ValkeyServer) -> None:
    """PubSubBackend keeps to its database, though pub/sub knows none."""
    await backend.follow("a")
    neighbour = PubSubBackend(server.url("redis", 1), retention=lambda _: ALL)
    await neighbour.connect()
    await neighbour.append(records("a", "1"))
    await backend.append(records("a", "2"))
    assert await texts(backend, 1) == ["2"]
    await neighbour.disconnect()


async def test_what_others_publish_there_is_ignored(backend: PubSubBackend, server: ValkeyServer) -> None:
    """PubSubBackend takes nothing from a topic that publish.lua has not published."""
    await backend.follow("a")
    for text in ("", "nonsense", "\x1e1"):
        server.run("PUBLISH", "abide:live:0:a", text)
    await backend.append(records("a", "2"))
    assert await texts(backend, 1) == ["2"]


async def test_the_servers_own_channels_are_a_log(backend: PubSubBackend, server: ValkeyServer) -> None:
    """PubSubBackend keeps what was taken back, and tickets, for workers that start later."""
    (stored,) = await backend.append(records(TICKETS, "1"))
    assert isinstance(stored, Published)
    assert stored.position.text is not None
    (mixed, own) = await backend.append([*records("a", "2"), *records(ACCESS, "3")])
    assert mixed == PUBLISHED
    assert isinstance(own, Published)
    assert own.position.offset == 1
    async for later in connected(server):
        page = await later.read(ACCESS, 0, 100, ALL)
        assert [message.data for message in page.messages] == [b"3"]


async def test_what_was_taken_back_comes_before_what_is_published_later(
    backend: PubSubBackend, other: PubSubBackend
) -> None:
    """PubSubBackend hands out what was taken back before live messages that were published after its answer."""
    for channel in (ACCESS, "a"):
        await other.follow(channel)
    for number in range(30):
        await backend.append(records(ACCESS, f"{number}"))
        await backend.append(records("a", f"{number}"))
        found = [await news(other), await news(other)]
        assert [batch.channel for batch in found] == [ACCESS, "a"]


async def test_it_says_what_it_holds(backend: PubSubBackend, server: ValkeyServer) -> None:
    """PubSubBackend's repr says where it is and what it follows, without secrets."""
    await backend.follow("a")
    assert repr(backend) == f"<PubSubBackend {server.place}, 1 followed, 0 bytes held: listening>"

"""Subscriptions as cursors: at the head, behind it, and ended."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.bus.bus import Bus
from app.bus.memory import MemoryBackend
from app.core.channel import Channel, HistoryWindow, Registry
from app.core.delivery.catchup import Catchup
from app.core.delivery.encodings import PLAIN_TEXTS
from app.core.delivery.fanout import Fanout
from app.core.delivery.hub import Hub
from app.core.delivery.subscription import Subscription
from app.core.errors import AbideError, ChannelRemovedError, UnauthorisedError, UnavailableError, UnknownChannelError
from app.core.message import Batch, EpochChange, Message, Page, Position, Record
from app.core.resume import Beginning, Gap, Reason, Start
from app.core.rights.policy import ANONYMOUS, Access, Identity, Policy
from app.core.tail import TailBudget
from tests.support.writers import Nowhere

OPEN = Registry((Channel("c", publish=Policy((Access.ANYONE,))), Channel("d"), Channel("room.{id}")), Channel(""))


class Reader(Nowhere):
    """A writer that takes everything, unless it is told to be full, and raises what ended it."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.texts: list[str] = []
        self.full = False
        self._error: AbideError | None = None
        self._news = asyncio.Event()
        subscription.attach(self, self)

    async def wait(self) -> None:
        self._news.clear()
        if self._error is None:
            await self._news.wait()
        if self._error is not None:
            raise self._error

    def write(self, data: bytes) -> None:
        self.texts += data.decode().split("\x1e")[:-1]
        self._news.set()

    def ended(self, _: Subscription, error: AbideError) -> None:
        self._error = error
        self._news.set()

    def lost(self, subscription: Subscription, gap: Gap) -> None:
        """Not here."""

    def is_full(self) -> bool:
        return self.full


class World:
    """A bus over memory and a hub on it, with rules that a test may change."""

    def __init__(self, history: HistoryWindow = HistoryWindow(), tail_bytes: int = 1 << 20) -> None:  # noqa: B008 — immutable
        self.history = history
        self.backend = MemoryBackend(lambda _: self.history)
        self.bus = Bus(self.backend)
        channels = tuple(Channel(c.name, history=history) for c in OPEN.channels)
        self.hub = Hub(self.bus, Registry(channels, Channel("")), tail_bytes=tail_bytes)

    @asynccontextmanager
    async def subscribe(self, name: str, identity: Identity) -> AsyncIterator[Reader]:
        subscription, _ = await self.hub.subscribe(name, identity, PLAIN_TEXTS)
        reader = Reader(subscription)
        try:
            yield reader
        finally:
            self.hub.unsubscribe(subscription)

    async def resume(self, offset: int) -> Beginning:
        """Return where a subscription to "c" begins that comes back with an offset."""
        start = Start(since=Position(self.backend.epoch, offset))
        subscription, where = await self.hub.subscribe("c", ANONYMOUS, PLAIN_TEXTS, start)
        self.hub.unsubscribe(subscription)
        return where

    async def publish(self, *texts: str, channel: str = "c") -> None:
        await self.bus.publish([Record(channel, text.encode()) for text in texts])


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.bus.running():
        yield world


async def read(reader: Reader, count: int) -> list[str]:
    async with asyncio.timeout(10):
        while len(reader.texts) < count:
            await reader.wait()
    found, reader.texts = reader.texts[:count], reader.texts[count:]
    return found


async def test_a_subscription_gets_what_is_published_after_it_began(world: World) -> None:
    """Subscription starts at the head and is handed everything later, in order."""
    await world.publish("0")
    async with world.subscribe("c", ANONYMOUS) as subscription:
        await world.publish("1", "2")
        await world.publish("3")
        assert await read(subscription, 3) == ["1", "2", "3"]
        assert subscription.subscription.position.offset == 4


async def test_messages_of_two_channels_do_not_mix(world: World) -> None:
    """Subscription sees its own channel only, members of one family apart."""
    async with world.subscribe("room.a", ANONYMOUS) as a, world.subscribe("room.b", ANONYMOUS) as b:
        await world.publish("for a", channel="room.a")
        await world.publish("for b", channel="room.b")
        assert await read(a, 1) == ["for a"]
        assert await read(b, 1) == ["for b"]


async def test_many_first_subscribers_at_once_all_hear(world: World) -> None:
    """Hub takes subscriptions of a channel one at a time, so that none is lost in a race."""

    async def one() -> list[str]:
        async with world.subscribe("c", ANONYMOUS) as subscription:
            ready.release()
            return await read(subscription, 1)

    ready = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(one()) for _ in range(50)]
    for _ in tasks:
        await ready.acquire()
    await world.publish("x")
    assert await asyncio.gather(*tasks) == [["x"]] * 50


async def test_leaving_and_coming_back_in_a_hurry_loses_nothing(world: World) -> None:
    """Hub delivers to each of many short subscriptions what was published while it lasted."""
    for number in range(50):
        async with world.subscribe("c", ANONYMOUS) as subscription:
            await world.publish(str(number))
            assert await read(subscription, 1) == [str(number)]


async def test_a_removed_channel_ends_its_subscriptions(world: World) -> None:
    """Hub ends subscriptions of a removed channel and leaves the others alone."""
    async with world.subscribe("c", ANONYMOUS) as removed, world.subscribe("d", ANONYMOUS) as kept:
        await world.hub.apply(Registry((Channel("d"),), Channel("")))
        with pytest.raises(ChannelRemovedError):
            await read(removed, 1)
        await world.publish("x", channel="d")
        assert await read(kept, 1) == ["x"]


async def test_a_stricter_policy_ends_who_it_no_longer_admits(world: World) -> None:
    """Hub ends subscriptions that a changed policy refuses."""
    async with world.subscribe("c", ANONYMOUS) as subscription:
        await world.hub.apply(Registry((Channel("c", subscribe=Policy((Access.TOKEN,))),), Channel("")))
        with pytest.raises(UnauthorisedError):
            await read(subscription, 1)


async def test_others_go_on_while_thousands_of_subscriptions_are_judged(world: World) -> None:
    """Hub lets others go on while a reload reaches thousands of subscriptions, and ends those that it must."""
    hub = world.hub
    opened = [(await hub.subscribe("c", ANONYMOUS, PLAIN_TEXTS))[0] for _ in range(12_000)]
    applying = asyncio.create_task(hub.apply(Registry((Channel("c", max_message_size=5),), Channel(""))))
    turns = 0
    while not applying.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 3
    assert hub.subscribers["c"] == 12_000
    assert {subscription.channel.max_message_size for subscription in opened} == {5}
    for subscription in opened:
        hub.unsubscribe(subscription)


async def test_new_rules_reach_open_subscriptions(world: World) -> None:
    """Hub gives open subscriptions the new rules of their channel."""
    async with world.subscribe("c", ANONYMOUS) as subscription:
        changed = Channel("c", max_message_size=5)
        await world.hub.apply(Registry((changed,), Channel("")))
        assert subscription.subscription.channel is changed


async def test_an_unknown_channel_cannot_be_subscribed_to(world: World) -> None:
    """Hub refuses a name that is not declared."""
    with pytest.raises(UnknownChannelError):
        async with world.subscribe("nope", ANONYMOUS):
            pass


async def test_a_subscription_says_where_it_stands(world: World) -> None:
    """Subscription's repr tells its channel, position and head."""
    async with world.subscribe("c", ANONYMOUS) as subscription:
        assert repr(subscription.subscription) == f"<Subscription c at {world.backend.epoch}:0, head 0>"


async def test_who_resumes_while_the_head_moves_on_shares_a_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hub asks the log once for what the history shows, however many resume from before what is in memory."""
    asked: list[int] = []

    async def counted(channel: str, after: int, limit: int, history: HistoryWindow) -> Page:
        asked.append(limit)
        return await MemoryBackend.read(world.backend, channel, after, limit, history)

    monkeypatch.setattr(world.backend, "read", counted)
    await world.publish(*map(str, range(20)))
    async with world.subscribe("c", ANONYMOUS) as live:
        for number in range(20):
            await world.publish(str(number))
            await read(live, 1)
            where = await world.resume(number)
            assert where == Beginning(number, resumed=True, gap=None)
    assert asked == [0]


async def test_who_resumes_from_what_is_in_memory_reads_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hub does not ask the log about a position whose next message is in memory, however the head moves."""

    async def refused(*_: object) -> Page:
        raise AssertionError

    monkeypatch.setattr(world.backend, "read", refused)
    async with world.subscribe("c", ANONYMOUS) as live:
        for number in range(20):
            await world.publish(str(number))
            await read(live, 1)
            for since in (0, number, number + 1):
                assert await world.resume(since) == Beginning(since, resumed=True, gap=None)


@pytest.mark.parametrize("history", [HistoryWindow(size=3), HistoryWindow(ttl=1)], ids=["too many", "too old"])
async def test_a_message_in_memory_that_the_history_hides_is_not_sent(history: HistoryWindow) -> None:
    """Hub asks the log about a position whose next message may have left the history, though it is in memory."""
    world = World(history)
    async with world.bus.running(), world.subscribe("c", ANONYMOUS) as live:
        await world.publish("1")
        await read(live, 1)
        if history.ttl == 1:
            await asyncio.sleep(1.1)
        await world.publish("2", "3", "4")
        await read(live, 3)
        where = await world.resume(0)
        assert not where.resumed
        assert where.gap is not None


async def test_who_resumes_is_told_of_a_gap_that_came_after_the_shared_read() -> None:
    """Hub knows what newer messages have pushed out of the history since it asked the log."""
    world = World(HistoryWindow(size=3))
    async with world.bus.running(), world.subscribe("c", ANONYMOUS) as live:
        await world.publish("1", "2")
        await read(live, 2)
        assert (await world.resume(0)).resumed
        await world.publish("3", "4", "5")
        await read(live, 3)
        gap = Gap(f"{world.backend.epoch}:0", Position(world.backend.epoch, 3), Reason.EXPIRED)
        assert await world.resume(0) == Beginning(2, resumed=False, gap=gap)


async def test_who_is_full_when_the_log_goes_back_under_a_read_is_not_sent_more() -> None:
    """Subscription whose writer fills up while the log is read for it waits for room, and is sent each message once."""
    fanout: Fanout[Subscription] = Fanout("c", TailBudget(1 << 20))
    fanout.start(Position("aaaaaaaa", 2))
    reading, found = asyncio.Event(), asyncio.Event()

    async def nothing(_: int, limit: int) -> Page:  # noqa: ARG001 — a read of pages
        reading.set()
        await found.wait()
        return Page(1, 0, (), "bbbbbbbb")

    catchup = Catchup(nothing, lambda: fanout.tail.epoch)
    subscription = Subscription("c", Channel("c"), ANONYMOUS, PLAIN_TEXTS, 0, fanout, catchup)
    fanout.add(subscription)
    slow = Reader(subscription)
    await reading.wait()
    slow.full = True
    subscription.full()
    fanout.change_epoch(EpochChange("c", 0, "bbbbbbbb", 0))
    found.set()
    await turns(20)
    fanout.deliver(Batch("c", "bbbbbbbb", (Message(1, 0, b"1"),)))
    await turns(20)
    assert slow.texts == []
    slow.full = False
    subscription.writable()
    fanout.deliver(Batch("c", "bbbbbbbb", (Message(2, 0, b"2"),)))
    await turns(20)
    assert slow.texts == ["1", "2"]


async def turns(count: int) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


class Away(MemoryBackend):
    """A backend that fails each time it is asked to follow a channel, when it is told to."""

    def __init__(self) -> None:
        super().__init__(lambda _: HistoryWindow())
        self.asked = 0
        self.fails = asyncio.Event()

    async def follow(self, channel: str) -> Position:
        """Fail when it is told to."""
        self.asked += 1
        await self.fails.wait()
        msg = f"{channel} cannot be followed"
        raise UnavailableError(msg)


async def test_all_who_wait_for_a_channel_learn_at_once_that_it_cannot_be_had() -> None:
    """Hub asks a backend that is away once for all who came meanwhile, and again for the next."""
    backend = Away()
    bus = Bus(backend)
    async with bus.running():
        hub = Hub(bus, OPEN)
        waiting = [asyncio.create_task(hub.subscribe("c", ANONYMOUS, PLAIN_TEXTS)) for _ in range(50)]
        await asyncio.sleep(0)
        backend.fails.set()
        failed = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(error) for error in failed} == {UnavailableError}
        assert backend.asked == 1
        with pytest.raises(UnavailableError):
            await hub.subscribe("c", ANONYMOUS, PLAIN_TEXTS)
        assert backend.asked == 2

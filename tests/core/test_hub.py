"""Subscriptions as cursors: at the head, behind it, and ended."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.bus.bus import Bus
from app.bus.memory import MemoryBackend
from app.core.channel import ANONYMOUS, Access, Channel, History, Identity, Registry
from app.core.errors import ChannelRemovedError, ForbiddenError, GapError, UnknownChannelError
from app.core.hub import Hub
from app.core.message import Record
from app.core.subscription import MAX_MESSAGES, Subscription

OPEN = Registry((Channel("c", publish=Access.ANYONE), Channel("d"), Channel("room.{id}")), Channel(""))


class World:
    """A bus over memory and a hub on it, with rules that a test may change."""

    def __init__(self, history: History = History(), tail_bytes: int = 1 << 20) -> None:  # noqa: B008 — immutable
        self.history = history
        self.backend = MemoryBackend(lambda _: self.history)
        self.bus = Bus(self.backend)
        channels = tuple(Channel(c.name, history=history) for c in OPEN.channels)
        self.hub = Hub(self.bus, Registry(channels, Channel("")), tail_bytes=tail_bytes)

    @asynccontextmanager
    async def subscribe(self, name: str, identity: Identity) -> AsyncIterator[Subscription]:
        subscription = await self.hub.subscribe(name, identity)
        try:
            yield subscription
        finally:
            self.hub.unsubscribe(subscription)

    async def publish(self, *texts: str, channel: str = "c") -> None:
        await self.bus.publish([Record(channel, text.encode()) for text in texts])


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.bus.running():
        yield world


async def read(subscription: Subscription, count: int) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        found += [message.data.decode() for message in await subscription.next()]
    return found


async def test_a_subscription_gets_what_is_published_after_it_began(world: World) -> None:
    """Subscription starts at the head and is handed everything later, in order."""
    await world.publish("0")
    async with world.subscribe("c", ANONYMOUS) as subscription:
        await world.publish("1", "2")
        await world.publish("3")
        assert await read(subscription, 3) == ["1", "2", "3"]
        assert subscription.position.offset == 4


async def test_channels_do_not_mix(world: World) -> None:
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


async def test_a_subscription_left_behind_is_served_from_the_log() -> None:
    """Subscription that fell out of the tail reads the log, and reaches the live messages again."""
    world = World(tail_bytes=2000)
    async with world.bus.running(), world.subscribe("c", ANONYMOUS) as subscription:
        for number in range(600):
            await world.publish(str(number))
        expected = [str(number) for number in range(600)]
        assert await read(subscription, 600) == expected
        await world.publish("live")
        assert await read(subscription, 1) == ["live"]


async def test_one_read_is_bounded(world: World) -> None:
    """Subscription hands over at most so many messages at once, however far behind it is."""
    async with world.subscribe("c", ANONYMOUS) as subscription:
        for _ in range(3):
            await world.publish(*("x" for _ in range(500)))
        assert len(await subscription.next()) <= MAX_MESSAGES


async def test_a_subscription_that_lost_its_place_is_told() -> None:
    """Subscription whose next message the log no longer holds raises a gap, and delivers nothing."""
    world = World(History(size=10), tail_bytes=1000)
    async with world.bus.running(), world.subscribe("c", ANONYMOUS) as subscription:
        for number in range(600):
            await world.publish(str(number))
        with pytest.raises(GapError, match="no longer reaches back to offset 1"):
            await subscription.next()


async def test_a_removed_channel_ends_its_subscriptions(world: World) -> None:
    """Hub ends subscriptions of a removed channel and leaves the others alone."""
    async with world.subscribe("c", ANONYMOUS) as removed, world.subscribe("d", ANONYMOUS) as kept:
        waiting = asyncio.create_task(removed.next())
        await asyncio.sleep(0)
        world.hub.apply(Registry((Channel("d"),), Channel("")))
        with pytest.raises(ChannelRemovedError):
            await waiting
        await world.publish("x", channel="d")
        assert await read(kept, 1) == ["x"]


async def test_a_stricter_policy_ends_who_it_no_longer_admits(world: World) -> None:
    """Hub ends subscriptions that a changed policy refuses."""
    async with world.subscribe("c", ANONYMOUS) as subscription:
        world.hub.apply(Registry((Channel("c", subscribe=Access.TOKEN),), Channel("")))
        with pytest.raises(ForbiddenError):
            await subscription.next()


async def test_new_rules_reach_open_subscriptions(world: World) -> None:
    """Hub gives open subscriptions the new rules of their channel."""
    async with world.subscribe("c", ANONYMOUS) as subscription:
        changed = Channel("c", max_message_size=5)
        world.hub.apply(Registry((changed,), Channel("")))
        assert subscription.channel is changed


async def test_an_unknown_channel_cannot_be_subscribed_to(world: World) -> None:
    """Hub refuses a name that is not declared."""
    with pytest.raises(UnknownChannelError):
        async with world.subscribe("nope", ANONYMOUS):
            pass


async def test_a_subscription_says_where_it_stands(world: World) -> None:
    """Subscription's repr tells its channel, position and head."""
    async with world.subscribe("c", ANONYMOUS) as subscription:
        assert repr(subscription) == f"<Subscription c at {world.backend.epoch}:0, head 0>"

"""What the core and the bus tell the meter: little, and in time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from app.bus.group_commit import GroupCommit
from app.core.channel import Channel, Registry
from app.core.delivery import encodings
from app.core.delivery.fanout import SLICE, Fanout
from app.core.delivery.hub import Hub
from app.core.errors import AbideError
from app.core.message import Batch, Message, Page, Position, Published, Record
from app.core.ports import Outcome, Sink
from app.core.rights.policy import ANONYMOUS
from app.core.tail import TailBudget
from app.telemetry.metrics import Metrics
from tests.support.writers import Nowhere

SUBSCRIBERS = 10


class Told(Metrics):
    """The meter, which remembers each call."""

    def __init__(self) -> None:
        super().__init__(str)
        self.calls: list[tuple[object, ...]] = []

    def delivered(self, channel: str, messages: int, oldest: int | None = None) -> None:
        assert oldest is not None
        self.calls.append((channel, messages))

    def appended(self, messages: int, seconds: float) -> None:
        assert seconds >= 0
        self.calls.append((messages,))

    def published(self, messages: object) -> None:
        self.calls.append((messages,))


class Cursor:
    """A subscription at the head."""

    encoding = encodings.PLAIN_FRAMES
    cursor = 0

    def advance(self) -> None:
        """Stay there."""

    def rewound(self, epoch: str, offset: int) -> None:
        """Stay there."""

    def missed(self, offset: int) -> None:
        raise NotImplementedError

    def end(self, error: AbideError) -> None:
        """Stay there."""


class Quiet:
    """A source of channels in which nothing happens."""

    async def follow(self, channel: str, sink: Sink) -> None:  # noqa: ARG002
        sink.start(Position("e", 0))

    async def unfollow(self, channel: str) -> None:
        """Nothing to give back."""

    async def read(self, *_: object) -> Page:
        return Page(1, 0, (), "e")


def batch(first: int, count: int) -> Batch:
    return Batch("news", "e", tuple(Message(first + n, 0, b"1") for n in range(count)))


async def test_fanout_tells_once_in_a_turn() -> None:
    """Fan-out tells of a turn's messages at once, however many there are, and subscriptions; of nobody, nothing."""
    told = Told()
    fanout: Fanout[Cursor] = Fanout("news", TailBudget(10**6), told)
    fanout.start(Position("e", 0))
    fanout.deliver(batch(1, 1))
    await asyncio.sleep(0)
    for _ in range(SUBSCRIBERS):
        cursor = Cursor()
        cursor.cursor = 1
        fanout.add(cursor)
        fanout.join(cursor, Nowhere())
    fanout.deliver(batch(2, 2))
    fanout.deliver(batch(4, 1))
    await asyncio.sleep(0)
    assert told.calls == [("news", 3 * SUBSCRIBERS)]


async def test_fanout_tells_of_each_slice() -> None:
    """Fan-out to more than one slice of subscriptions tells of each slice when it is written."""
    told = Told()
    fanout: Fanout[Cursor] = Fanout("news", TailBudget(10**6), told)
    fanout.start(Position("e", 0))
    for _ in range(SLICE + 1):
        cursor = Cursor()
        fanout.add(cursor)
        fanout.join(cursor, Nowhere())
    fanout.deliver(batch(1, 2))
    await asyncio.sleep(0)
    assert told.calls == [("news", 2 * SLICE)]
    await asyncio.sleep(0)
    assert told.calls == [("news", 2 * SLICE), ("news", 2)]


async def test_commit_tells_once_of_a_batch() -> None:
    """Group commit tells of a batch at once: how large it was, and what of it was stored just now."""
    told = Told()

    async def append(records: Sequence[Record], _: float) -> list[Outcome]:
        return [Published(Position("e", 1), replayed=record.key is not None) for record in records]

    commit = GroupCommit(append, told)
    publishing = [
        asyncio.ensure_future(commit.publish([Record("news", b"1"), Record("orders", b"1"), Record("news", b"1", key)]))
        for key in (None, "k")
    ]
    await asyncio.sleep(0)
    commit.close()
    await commit.run()
    await asyncio.gather(*publishing)
    assert told.calls == [(6,), ({"news": 3, "orders": 2},)]


async def test_hub_counts_by_the_name_in_force() -> None:
    """Hub counts subscriptions under the declared name that a reload gives them, and takes them off it at their end."""
    family, plain = Channel("chat.{room}"), Channel("chat.a")
    hub = Hub(Quiet(), Registry((family,), Channel("defaults")))
    first, _ = await hub.subscribe("chat.a", ANONYMOUS, encodings.PLAIN_FRAMES)
    second, _ = await hub.subscribe("chat.b", ANONYMOUS, encodings.PLAIN_FRAMES)
    assert hub.subscribers == {"chat.{room}": 2}
    await hub.apply(Registry((family, plain), Channel("defaults")))
    assert hub.subscribers == {"chat.{room}": 1, "chat.a": 1}
    await hub.apply(Registry((family,), Channel("defaults")))
    await hub.apply(Registry((plain,), Channel("defaults")))
    hub.unsubscribe(first)
    hub.unsubscribe(second)
    assert hub.subscribers == {"chat.{room}": 0, "chat.a": 0}

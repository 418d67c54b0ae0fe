"""Subscriptions to a source that keeps nothing: no positions, and a gap wherever messages may be lost."""

import asyncio
import random

import pytest

from app.core.channel import Channel, HistoryWindow, Registry, SlowSubscriber
from app.core.delivery import fanout
from app.core.delivery.encodings import SSE_BARE, V1_TEXTS, Encoding
from app.core.delivery.hub import Hub
from app.core.delivery.subscription import Subscription
from app.core.errors import AbideError
from app.core.message import Batch, Message, Page, Position
from app.core.ports import Sink
from app.core.resume import Gap, Reason, Start
from app.core.rights.policy import ANONYMOUS
from tests.support.writers import Nowhere

NOTHING = HistoryWindow(size=0, ttl=60)


class Live:
    """A source of live messages alone, which a test publishes and loses."""

    def __init__(self) -> None:
        self.sink: Sink
        self.head = 0

    async def follow(self, _: str, sink: Sink) -> None:
        self.sink = sink
        sink.start(Position("", self.head))

    async def unfollow(self, _: str) -> None:
        pass

    async def read(self, *_: object) -> Page:
        return Page(self.head + 1, self.head, (), "")

    def publish(self, messages: int = 1) -> None:
        first, self.head = self.head + 1, self.head + messages
        self.sink.deliver(Batch("c", "", tuple(Message(at, 1, b"%d" % at) for at in range(first, self.head + 1))))


class Reader(Nowhere):
    """A subscriber that notes what it is sent: offsets, and gaps as "gap"."""

    def __init__(self, room: int = 1_000_000) -> None:
        self.room = room
        self.got: list[int | str] = []
        self.gaps: list[Gap] = []
        self.subscription: Subscription

    def write(self, data: bytes) -> None:
        assert self.room > 0
        texts = data.decode().rstrip("\x1e").split("\x1e")
        self.got += [int(text.rpartition('"data":')[2][:-1]) for text in texts]
        self.room -= 1
        if not self.room:
            self.subscription.full()

    def is_full(self) -> bool:
        return not self.room

    def lost(self, _: Subscription, gap: Gap) -> None:
        self.got.append("gap")
        self.gaps.append(gap)

    def ended(self, _: Subscription, error: AbideError) -> None:
        raise error

    def open(self, room: int = 1_000_000) -> None:
        """Let more through, if it is full."""
        if self.is_full():
            self.room = room
            self.subscription.writable()


def make_hub(slow: SlowSubscriber = SlowSubscriber.CATCH_UP, tail_bytes: int = 1 << 20) -> tuple[Live, Hub]:
    source, channel = Live(), Channel("c", history=NOTHING, slow_subscriber=slow)
    return source, Hub(source, Registry((channel,), channel), tail_bytes=tail_bytes)


async def turns() -> None:
    """Let everything that is on its way arrive."""
    for _ in range(20):
        await asyncio.sleep(0)


async def attach(hub: Hub, reader: Reader, start: Start = Start()) -> bool:  # noqa: B008 — immutable
    """Subscribe, and return whether it was resumed."""
    reader.subscription, where = await hub.subscribe("c", ANONYMOUS, V1_TEXTS, start)
    if where.gap is not None:
        reader.lost(reader.subscription, where.gap)
    reader.subscription.attach(reader, reader)
    return where.resumed


async def test_a_loss_is_a_gap_between_what_came_before_and_after_it() -> None:
    """Subscriber is sent all that was heard before a loss, then a gap without positions, then what came after."""
    source, hub = make_hub()
    reader = Reader()
    await attach(hub, reader)
    source.publish(2)
    source.sink.lose()
    source.publish(2)
    await turns()
    assert reader.got == [1, 2, "gap", 3, 4]
    gap = reader.gaps[0]
    assert (gap.after, gap.next.text, gap.reason, gap.by_policy) == (None, None, Reason.DROPPED, False)


async def test_a_loss_is_told_at_once_and_to_those_who_have_got_nothing_yet() -> None:
    """Subscriber is told of a loss without waiting for a message, also where it is the first thing it gets."""
    source, hub = make_hub()
    reader, later = Reader(), Reader()
    await attach(hub, reader)
    source.sink.lose()
    assert reader.got == ["gap"]
    await attach(hub, later)
    source.publish()
    await turns()
    assert (reader.got, later.got) == (["gap", 1], [1])


async def test_a_slow_subscriber_is_told_of_its_losses_where_they_happened() -> None:
    """Subscriber that is full gets what came before a loss first, and then one gap for all losses meanwhile."""
    source, hub = make_hub()
    slow = Reader(room=1)
    await attach(hub, slow)
    source.publish()
    await turns()
    source.publish()
    source.sink.lose()
    source.publish()
    source.sink.lose()
    source.publish()
    await turns()
    assert slow.got == [1]
    slow.open()
    await turns()
    assert slow.got == [1, 2, "gap", 4]


async def test_a_slow_subscriber_skips_what_is_no_longer_here() -> None:
    """Subscriber behind all that this process holds is told of a gap, and goes on live."""
    source, hub = make_hub(tail_bytes=1000)
    slow = Reader(room=1)
    await attach(hub, slow)
    for _ in range(50):
        source.publish()
        await turns()
    slow.open()
    await turns()
    source.publish()
    await turns()
    assert slow.got == [1, "gap", 51]
    assert slow.gaps[0].reason is Reason.EXPIRED


async def test_a_channel_that_drops_messages_says_so_as_its_policy() -> None:
    """Subscriber under slow_subscriber: drop can tell what its channel dropped from what was lost."""
    source, hub = make_hub(SlowSubscriber.DROP)
    slow = Reader(room=1)
    await attach(hub, slow)
    source.publish()
    await turns()
    source.publish(3)
    slow.open()
    assert slow.got == [1, "gap"]
    assert slow.gaps[0].by_policy


@pytest.mark.parametrize("given", ["8c1f0a52:7", "live:0", "nonsense"])
async def test_no_position_is_known(given: str) -> None:
    """Subscriber that comes back with any position is told of a gap, even before the first message."""
    source, hub = make_hub()
    reader = Reader()
    assert not await attach(hub, reader, Start.after_event(given))
    assert (reader.gaps[0].after, reader.gaps[0].next.text, reader.gaps[0].reason) == (given, None, Reason.EPOCH)
    source.publish()
    await turns()
    assert reader.got == ["gap", 1]


@pytest.mark.parametrize("start", [Start(earliest=True), Start(last=5)])
async def test_nothing_earlier_can_be_had(start: Start) -> None:
    """Subscriber that asks for what came before it begins with the next message, and no gap."""
    source, hub = make_hub()
    await attach(hub, Reader())
    source.publish(3)
    reader = Reader()
    assert not await attach(hub, reader, start)
    source.publish()
    await turns()
    assert reader.got == [4]


async def test_thousands_are_told_of_a_loss_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss is told to so many subscribers in one turn, and those who leave meanwhile are told nothing."""
    monkeypatch.setattr(fanout, "SLICE", 10)
    source, hub = make_hub()
    readers = [Reader() for _ in range(25)]
    for reader in readers:
        await attach(hub, reader)
    source.sink.lose()
    source.publish()
    told = [reader for reader in readers if reader.got == ["gap"]]
    rest = [reader for reader in readers if not reader.got]
    assert (len(told), len(rest)) == (10, 15)
    hub.unsubscribe(rest[0].subscription)
    await turns()
    assert not rest[0].got
    assert all(reader.got == ["gap", 1] for reader in [*told, *rest[1:]])


async def test_no_schedule_hides_a_loss() -> None:
    """Subscriber gets messages in order, and a gap wherever one is missing or may be, whatever happens in between."""
    for seed in range(150):
        chance = random.Random(seed)  # noqa: S311 — a schedule, not a secret
        source, hub = make_hub(tail_bytes=chance.choice([800, 1 << 20]))
        readers, losses = [Reader(chance.choice([1, 3, 1_000_000])) for _ in range(3)], list[int]()
        for reader in readers:
            await attach(hub, reader)
        for _ in range(60):
            match chance.randrange(5):
                case 0:
                    source.sink.lose()
                    losses.append(source.head)
                case 1:
                    chance.choice(readers).open(chance.choice([1, 2, 1_000_000]))
                case 2:
                    await turns()
                case _:
                    source.publish(chance.randrange(1, 4))
        await turns()
        source.publish()
        for _ in range(5):
            for reader in readers:
                reader.open()
            await turns()
        for reader in readers:
            check(reader.got, losses, source.head)


def check(got: list[int | str], losses: list[int], head: int) -> None:
    """Assert that messages ascend up to the head, and that a gap is at each loss and hole."""
    last, told = 0, False
    for item in got:
        if isinstance(item, str):
            told = True
            continue
        assert item > last
        assert told or item == last + 1
        assert told or not any(last <= loss < item for loss in losses)
        last, told = item, False
    assert told or last == head


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        (V1_TEXTS, b'{"type":"message","channel":"c","position":null,"time":5,"data":{"a": 1}}\x1e'),
        (SSE_BARE, b'data: {"a": 1}\n\n'),
    ],
)
def test_a_message_without_a_position_says_so(encoding: Encoding, text: bytes) -> None:
    """Encoding of a message without a position has null for it, or no id."""
    assert encoding("c", "", [Message(1, 5, b'{"a": 1}')]) == text

"""Subscriptions pushed into writers: joined writes, slow ones, and the way back to the head."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from typing import Self

import pytest

from app.bus.bus import Bus
from app.bus.memory import MemoryBackend
from app.core.channel import Channel, HistoryWindow, Registry, SlowSubscriber
from app.core.delivery import catchup, fanout
from app.core.delivery.catchup import Catchup
from app.core.delivery.encodings import PLAIN_FRAMES, Encoding
from app.core.delivery.hub import Hub
from app.core.delivery.subscription import Subscription
from app.core.errors import CLOSE_CODES, AbideError, ChannelRemovedError, GapError, UnavailableError
from app.core.message import Batch, EpochChange, Message, Page, Position, Record
from app.core.ports import Sink
from app.core.resume import Beginning, Gap, Reason, Start
from app.core.rights.policy import ANONYMOUS
from app.core.tail import Tail
from app.wire.frames import text_frame
from tests.support.writers import Nowhere


class Pipe(Nowhere):
    """A writer that remembers, and is full when a test says so."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.limit: int | None = None
        """How many more writes fit; None for any number."""
        self.subscription: Subscription | None = None
        self.error: AbideError | None = None
        self.gaps: list[Gap] = []
        self.ends_at_a_gap = True
        self._news = asyncio.Event()

    def write(self, data: bytes) -> None:
        assert self.limit is None or self.limit > 0, "written to a full pipe"
        self.writes.append(data)
        self._news.set()
        if self.limit is not None:
            self.limit -= 1
            if self.is_full() and self.subscription is not None:
                self.subscription.full()

    def is_full(self) -> bool:
        return self.limit == 0

    def lost(self, subscription: Subscription, gap: Gap) -> None:
        self.gaps.append(gap)
        if self.ends_at_a_gap:
            subscription.end(GapError(gap.reason))

    def ended(self, _: Subscription, error: AbideError) -> None:
        self.error = error
        self._news.set()

    def open(self, limit: int | None = None) -> None:
        """Let more through, as a peer that reads again."""
        self.limit = limit
        assert self.subscription is not None
        self.subscription.writable()

    async def read(self, size: int) -> bytes:
        """Return all that was written once it has ``size`` bytes."""
        async with asyncio.timeout(10):
            while len(b"".join(self.writes)) < size:
                self._news.clear()
                await self._news.wait()
        return b"".join(self.writes)

    async def end(self) -> AbideError:
        async with asyncio.timeout(10):
            while self.error is None:
                self._news.clear()
                await self._news.wait()
        return self.error


class Manifold(Pipe):
    """A pipe of a class that knows a faster way to write to many."""

    together = 0
    """How many were written to at once the last time."""

    @classmethod
    def write_all(cls, writers: Sequence[Self], data: bytes) -> None:
        for writer in writers:
            assert type(writer) is cls
            writer.together = len(writers)
            writer.write(data)


class Tapped:
    """A bus whose sinks a test can reach, to hand them what no backend here would."""

    def __init__(self, bus: Bus) -> None:
        self.sinks: dict[str, Sink] = {}
        self.read, self.unfollow, self._follow = bus.read, bus.unfollow, bus.follow

    async def follow(self, channel: str, sink: Sink) -> None:
        self.sinks[channel] = sink
        await self._follow(channel, sink)


class World:
    """A hub over memory, with pipes attached."""

    def __init__(self, history: HistoryWindow, tail_bytes: int, slow: SlowSubscriber) -> None:
        self.channel = Channel("c", history=history, slow_subscriber=slow)
        self.backend = MemoryBackend(lambda _: history)
        self.bus = Bus(self.backend)
        self.source = Tapped(self.bus)
        self.hub = Hub(self.source, Registry((self.channel,), Channel("")), tail_bytes=tail_bytes)
        self.began: Beginning
        """Where the newest subscription began."""

    async def attach(
        self,
        limit: int | None = None,
        start: Start = Start(),  # noqa: B008 — immutable
        pipe: Pipe | None = None,
    ) -> Pipe:
        pipe = pipe or Pipe()
        pipe.limit = limit
        pipe.subscription, self.began = await self.hub.subscribe("c", ANONYMOUS, PLAIN_FRAMES, start)
        pipe.subscription.attach(pipe, pipe)
        return pipe

    async def publish(self, *texts: str) -> None:
        await self.bus.publish([Record("c", text.encode()) for text in texts])

    async def settle(self) -> None:
        """Let everything that is on its way arrive."""
        witness = await self.attach()
        await self.publish('"settled"')
        await witness.read(len(text_frame(b'"settled"')))
        assert witness.subscription is not None
        self.hub.unsubscribe(witness.subscription)


class Worlds:
    """Makes worlds, and ends them with the test."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.over = asyncio.Event()

    async def make(
        self,
        history: HistoryWindow = HistoryWindow(),  # noqa: B008 — immutable
        tail_bytes: int = 1 << 20,
        slow: SlowSubscriber = SlowSubscriber.CATCH_UP,
    ) -> World:
        world, running = World(history, tail_bytes, slow), asyncio.Event()

        async def run() -> None:
            async with world.bus.running():
                running.set()
                await self.over.wait()

        self.tasks.append(asyncio.create_task(run()))
        await running.wait()
        return world


@pytest.fixture
async def worlds() -> AsyncIterator[Worlds]:
    worlds = Worlds()
    yield worlds
    worlds.over.set()
    await asyncio.gather(*worlds.tasks)


def frames(*texts: str) -> bytes:
    return b"".join(text_frame(text.encode()) for text in texts)


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_a_frame_has_the_shortest_header_that_fits(size: int) -> None:
    """Frame of each size begins as RFC 6455 says."""
    frame = text_frame(b"x" * size)
    header = {0: b"\x81\x00", 125: b"\x81\x7d", 126: b"\x81\x7e\x00\x7e", 65_535: b"\x81\x7e\xff\xff"}
    expected = header.get(size, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00")
    assert frame == expected + b"x" * size


async def test_a_message_without_data_is_written_to_nobody_and_is_no_gap(worlds: Worlds) -> None:
    """Fan-out goes past an offset without a message, for subscribers at the head and behind it."""
    world = await worlds.make()
    live = await world.attach()
    await world.publish("")
    await world.publish("1", "", "2")
    assert await live.read(6) == frames("1", "2")
    late = await world.attach(start=Start(earliest=True))
    assert await late.read(6) == frames("1", "2")
    assert live.writes == late.writes == [frames("1", "2")]
    assert live.gaps == late.gaps == []
    assert live.subscription is not None
    assert live.subscription.position.offset == 4


async def test_everybody_at_the_head_is_written_the_same_bytes(worlds: Worlds) -> None:
    """Fan-out encodes once: all subscribers are handed one and the same object."""
    world = await worlds.make()
    pipes = [await world.attach() for _ in range(3)]
    await world.publish("1")
    for pipe in pipes:
        assert await pipe.read(3) == frames("1")
    assert pipes[0].writes[0] is pipes[1].writes[0] is pipes[2].writes[0]


async def test_writers_of_two_classes_share_an_encoding_and_no_write(worlds: Worlds) -> None:
    """Subscribers of one encoding are written to class by class, and are still handed the same bytes."""
    world = await worlds.make()
    pipes = [await world.attach(pipe=pipe) for pipe in (Pipe(), Manifold(), Pipe(), Manifold())]
    await world.publish("1")
    for pipe in pipes:
        assert await pipe.read(3) == frames("1")
        assert pipe.error is None
        assert pipe.writes[0] is pipes[0].writes[0]
    for pipe in pipes[1::2]:
        assert isinstance(pipe, Manifold)
        assert pipe.together == 2


async def test_what_is_published_at_once_goes_out_in_one_write(worlds: Worlds) -> None:
    """Fan-out joins what comes within one turn of the loop."""
    world = await worlds.make()
    pipe = await world.attach()
    await asyncio.gather(*(world.publish(str(number)) for number in range(10)))
    assert await pipe.read(30) == frames(*map(str, range(10)))
    assert len(pipe.writes) <= 2  # the first may be appended alone


@pytest.mark.parametrize("where", ["encoding", "writing", "taking"])
async def test_a_bug_ends_the_subscriptions_and_not_the_channel(
    worlds: Worlds, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fan-out that a bug breaks ends every subscription with 1011, tells the loop once, and serves who comes then."""
    world = await worlds.make()
    first, second = await world.attach(), await world.attach()
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    def broken(*_: object, **__: object) -> None:
        msg = "a bug"
        raise RuntimeError(msg)

    with monkeypatch.context() as patch:
        if where == "encoding":
            patch.setattr(Encoding, "__call__", broken)
        elif where == "writing":
            patch.setattr(first, "write", broken)
        else:
            patch.setattr(Tail, "deliver", broken)
        await world.publish("1")
        for pipe in (first, second):
            assert CLOSE_CODES[(await pipe.end()).code] == 1011
    if where != "taking":  # there the bus tells
        assert [context["message"] for context in told] == ["delivery_failed"]
    for pipe in (first, second):
        assert pipe.subscription is not None
        world.hub.unsubscribe(pipe.subscription)
    back = await world.attach(start=Start(since=Position(world.backend.epoch, 0)))
    await world.publish("2")
    assert await back.read(6) == frames("1", "2")


async def test_a_read_that_a_bug_breaks_ends_its_subscription(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    """Subscription whose read of the log raises what nobody expects ends with 1011, and is not left half alive."""
    world = await worlds.make(tail_bytes=500)
    for number in range(50):
        await world.publish(str(number))
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    async def broken(*_: object) -> None:
        msg = "a bug"
        raise RuntimeError(msg)

    monkeypatch.setattr(Catchup, "after", broken)
    pipe = await world.attach(start=Start(last=40))
    assert CLOSE_CODES[(await pipe.end()).code] == 1011


async def test_a_full_subscriber_is_left_alone_and_catches_up_when_it_has_room(worlds: Worlds) -> None:
    """Subscription that is full is written nothing, then gets all it missed in order, and is live again."""
    world = await worlds.make()
    slow, fast = await world.attach(limit=1), await world.attach()
    for number in range(5):
        await world.publish(str(number))
    assert await fast.read(15) == frames("0", "1", "2", "3", "4")
    assert slow.writes == [frames("0")]
    slow.open()
    assert await slow.read(15) == frames("0", "1", "2", "3", "4")
    await world.publish("5")
    assert await slow.read(18) == await fast.read(18)
    assert slow.writes[-1] is fast.writes[-1]


async def test_a_subscriber_behind_the_tail_is_served_from_the_log(worlds: Worlds) -> None:
    """Subscription that fell out of the tail reads the log, in bounded writes, back to the head."""
    world = await worlds.make(tail_bytes=2000)
    slow = await world.attach(limit=1)
    expected = [str(number) for number in range(700)]
    for text in expected:
        await world.publish(text)
    await world.settle()
    slow.open()
    got = await slow.read(len(frames(*expected)))
    assert got.startswith(frames(*expected))
    await world.publish("live")
    assert (await slow.read(len(got) + 6)).endswith(frames("live"))


async def test_a_subscriber_that_lost_its_place_is_told_and_sent_nothing_more(worlds: Worlds) -> None:
    """Subscription whose next message the log no longer holds ends with a gap."""
    world = await worlds.make(HistoryWindow(size=5), tail_bytes=1000)
    slow = await world.attach(limit=1)
    for number in range(100):
        await world.publish(str(number))
    await world.settle()
    slow.open()
    assert isinstance(await slow.end(), GapError)
    assert slow.writes == [frames("0")]


async def test_a_channel_may_disconnect_its_slow_subscribers(worlds: Worlds) -> None:
    """Subscription under slow_subscriber: disconnect ends when it is full, for the client to come back."""
    world = await worlds.make(slow=SlowSubscriber.DISCONNECT)
    slow = await world.attach(limit=1)
    await world.publish("0")
    assert isinstance(await slow.end(), UnavailableError)


async def test_a_channel_may_drop_what_its_slow_subscribers_missed(worlds: Worlds) -> None:
    """Subscription under slow_subscriber: drop goes on at the head when it has room again."""
    world = await worlds.make(slow=SlowSubscriber.DROP)
    slow = await world.attach(limit=1)
    for number in range(5):
        await world.publish(str(number))
    await world.settle()
    slow.ends_at_a_gap = False
    slow.open()
    await world.publish("live")
    assert await slow.read(9) == frames("0", "live")
    assert [gap.reason for gap in slow.gaps] == [Reason.DROPPED]


async def test_thousands_are_served_in_slices(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fan-out to many is cut into turns of the loop, and nobody is left out, joins twice or is doubled."""
    monkeypatch.setattr(fanout, "SLICE", 10)
    world = await worlds.make()
    pipes = [await world.attach() for _ in range(35)]
    pipes[30].limit = 1
    texts = [str(number) for number in range(20)]
    publishing = asyncio.gather(*(world.publish(text) for text in texts))
    late = []
    for _ in range(8):
        await asyncio.sleep(0)
        late.append(await world.attach())
        gone = pipes.pop(0)
        assert gone.subscription is not None
        world.hub.unsubscribe(gone.subscription)
    await publishing
    await world.publish("last")
    pipes[30 - 8].open()
    whole = frames(*texts, "last")
    for pipe in pipes:
        assert await pipe.read(len(whole)) == whole
    for pipe in late:
        got = await pipe.read(len(frames("last")))
        assert whole.endswith(got)


async def test_a_removed_channel_ends_pushed_subscriptions(worlds: Worlds) -> None:
    """Hub ends pushed subscriptions of a removed channel, and sends them nothing more."""
    world = await worlds.make()
    pipe = await world.attach()
    await world.hub.apply(Registry((), Channel("")))
    assert isinstance(await pipe.end(), ChannelRemovedError)
    await world.publish("1")
    assert pipe.writes == []


async def test_an_unsubscribed_pipe_is_written_nothing_more(worlds: Worlds) -> None:
    """Hub forgets a subscription, and follows the channel no more when it was the last."""
    world = await worlds.make()
    pipe = await world.attach()
    assert pipe.subscription is not None
    world.hub.unsubscribe(pipe.subscription)
    await world.publish("1")
    await world.settle()
    assert pipe.writes == []
    assert len(world.hub) == 0


async def test_a_subscriber_that_comes_back_gets_every_later_message_once(worlds: Worlds) -> None:
    """Subscription with a position begins right after it, whether tail or log holds what comes."""
    for tail_bytes in (1 << 20, 500):
        world = await worlds.make(tail_bytes=tail_bytes)
        witness = await world.attach()
        for number in range(300):
            await world.publish(str(number))
        await witness.read(len(frames(*map(str, range(300)))))
        epoch = world.backend.epoch
        for offset in (0, 1, 255, 256, 257, 299, 300):
            pipe = await world.attach(start=Start(since=Position(epoch, offset)))
            assert world.began == (offset, True, None)
            expected = frames(*map(str, range(offset, 300)))
            assert await pipe.read(len(expected)) == expected


@pytest.mark.parametrize(
    ("start", "cursor", "reason"),
    [
        (Start(earliest=True), 90, None),
        (Start(last=3), 97, None),
        (Start(last=1000), 90, None),
        (Start(since=Position("", 95)), 95, None),
        (Start(since=Position("", 89)), 90, Reason.EXPIRED),
        (Start(since=Position("", 0)), 90, Reason.EXPIRED),
        (Start(since=Position("", 101)), 100, Reason.AHEAD),
        (Start(since=Position("other", 95)), 90, Reason.EPOCH),
    ],
)
async def test_a_subscription_begins_where_it_asked_or_at_the_nearest_place(
    worlds: Worlds, start: Start, cursor: int, reason: Reason | None
) -> None:
    """Subscription begins where it asked to, or at the nearest place with a gap that says why."""
    world = await worlds.make(HistoryWindow(size=10))
    for number in range(100):
        await world.publish(str(number))
    if start.since is not None and not start.since.epoch:
        start = Start(since=Position(world.backend.epoch, start.since.offset))
    pipe = await world.attach(start=start)
    assert world.began.cursor == cursor
    assert (world.began.gap and world.began.gap.reason) == reason
    assert world.began.resumed == (start.since is not None and reason is None)
    if world.began.gap:
        assert world.began.gap.next == (world.backend.epoch, cursor + 1)
        assert world.began.gap.after == str(start.since)
    expected = frames(*map(str, range(cursor, 100)))
    assert await pipe.read(len(expected)) == expected
    await world.publish("live")
    assert (await pipe.read(len(expected) + 6)).endswith(frames("live"))


async def test_a_storm_of_subscribers_reads_the_log_a_few_times(worlds: Worlds) -> None:
    """Hub reads what many subscribers wait for once, not once for each."""
    world = await worlds.make(tail_bytes=500)
    witness = await world.attach()
    for number in range(1000):
        await world.publish(str(number))
    await witness.read(len(frames(*map(str, range(1000)))))
    reads = 0
    read = world.backend.read

    async def counted(channel: str, after: int, limit: int, history: HistoryWindow) -> Page:
        nonlocal reads
        reads += 1
        await asyncio.sleep(0)
        return await read(channel, after, limit, history)

    world.backend.read = counted  # type: ignore[method-assign]
    starts = [Start(since=Position(world.backend.epoch, offset)) for offset in range(500, 1000)]
    pipes = await asyncio.gather(*(world.attach(start=start) for start in starts))
    for offset, pipe in zip(range(500, 1000), pipes, strict=True):
        expected = frames(*map(str, range(offset, 1000)))
        assert await pipe.read(len(expected)) == expected
    assert reads < 20


async def test_what_one_subscriber_read_of_the_log_serves_the_others(
    worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tail of a fresh process takes what is read from the log, so that those who come later need not read it."""
    monkeypatch.setattr(catchup, "KEEP_SECONDS", 0)
    world = await worlds.make()
    await world.publish(*map(str, range(600)))
    reads: list[int] = []
    read = world.backend.read

    async def noted(channel: str, after: int, limit: int, history: HistoryWindow) -> Page:
        reads.append(limit)
        return await read(channel, after, limit, history)

    world.backend.read = noted  # type: ignore[method-assign]
    for offset in (300, 200, 100, 0, 599):
        reads.clear()
        pipe = await world.attach(start=Start(since=Position(world.backend.epoch, offset)))
        expected = frames(*map(str, range(offset, 600)))
        assert await pipe.read(len(expected)) == expected
    assert not any(reads), "no messages are read for the last one"
    await world.publish("live")
    assert await pipe.read(len(frames("599", "live"))) == frames("599", "live")


async def test_a_log_that_went_back_is_a_gap(worlds: Worlds) -> None:
    """Fan-out whose log was put back by a backup says so, and goes on with what is new."""
    world = await worlds.make()
    pipe = await world.attach()
    pipe.ends_at_a_gap = False
    await world.publish("1", "2", "3")
    await pipe.read(9)
    sink = world.source.sinks["c"]  # memory cannot go back by itself
    sink.change_epoch(EpochChange("c", 1, world.backend.epoch, 1))
    sink.deliver(Batch("c", world.backend.epoch, (Message(2, 0, b"new"),)))
    assert await pipe.read(14) == frames("1", "2", "3", "new")
    assert [(gap.after, gap.next.offset, gap.reason) for gap in pipe.gaps] == [
        (f"{world.backend.epoch}:3", 2, Reason.AHEAD)
    ]


async def test_a_followed_channel_takes_little_memory_and_gives_it_back() -> None:
    """Subscription to a channel of its own takes 4 KiB at most, and nothing is left of it."""
    family = Registry((Channel("chat.{room}"),), Channel(""))
    bus = Bus(MemoryBackend(family.history))
    hub, pipe = Hub(bus, family), Pipe()

    async def subscribe(count: int) -> None:
        for number in range(count):
            subscription, _ = await hub.subscribe(f"chat.{number}", ANONYMOUS, PLAIN_FRAMES)
            subscription.attach(pipe, pipe)
            subscriptions.append(subscription)

    async def unsubscribe() -> None:
        while subscriptions:
            hub.unsubscribe(subscriptions.pop())
        for _ in range(10):
            await asyncio.sleep(0)

    subscriptions: list[Subscription] = []
    async with bus.running():
        await subscribe(10)
        await unsubscribe()
        tracemalloc.start()
        try:
            await subscribe(1000)
            assert tracemalloc.get_traced_memory()[0] < 1000 * 4096
            await unsubscribe()
            gc.collect()
            assert tracemalloc.get_traced_memory()[0] < 1000 * 512  # names that are remembered, and room in tables
        finally:
            tracemalloc.stop()
    assert hub.counts() == {}

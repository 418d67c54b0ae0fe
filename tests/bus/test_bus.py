"""The bus over broadcaster: what its sinks are handed."""

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest
from structlog.testing import capture_logs

from app.bus.bus import Bus
from app.bus.memory import MemoryBackend
from app.core.message import Batch, EpochChange, Message, Position, Record
from app.core.ports import Meter
from tests.bus.conformance import ALL


class Collector:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.position: Position | None = None
        self.texts: list[str] = []
        self.failures = 0
        self._news = asyncio.Event()

    def start(self, position: Position) -> None:
        self.position = position

    def deliver(self, batch: Batch) -> None:
        self.texts += [message.data.decode() for message in batch.messages]
        self._news.set()

    def change_epoch(self, change: EpochChange) -> None:
        self.position = Position(change.lineage, change.offset)
        self._news.set()

    def lose(self) -> None:
        """Only the protocol: nothing here is live only."""

    def failed(self) -> None:
        self.failures += 1
        self._news.set()

    async def wait_for(self, count: int) -> list[str]:
        async with asyncio.timeout(10):
            while len(self.texts) < count:
                self._news.clear()
                await self._news.wait()
        return self.texts

    async def wait_for_failure(self) -> None:
        async with asyncio.timeout(10):
            while not self.failures:
                self._news.clear()
                await self._news.wait()


class FlakyBackend(MemoryBackend):
    """Its listener fails once, and its follow when told so."""

    failures = 1
    refuse_follow = False

    async def next_batch(self) -> Batch:
        if self.failures:
            self.failures -= 1
            msg = "a bug"
            raise RuntimeError(msg)
        return await super().next_batch()

    async def follow(self, channel: str) -> Position:
        if self.refuse_follow:
            msg = "the backend said no"
            raise ConnectionError(msg)
        return await super().follow(channel)


@pytest.fixture
async def bus() -> AsyncIterator[Bus]:
    bus = Bus(MemoryBackend(lambda _: ALL))
    async with bus.running():
        yield bus


async def test_a_sink_is_started_and_then_handed_everything_in_order(bus: Bus) -> None:
    """Bus starts a sink at the head and hands it each later message once."""
    await bus.publish([Record("a", b"0")])
    sink = Collector()
    await bus.follow("a", sink)
    assert sink.position is not None
    assert sink.position.offset == 1
    for number in range(1, 200):
        await bus.publish([Record("a", str(number).encode())])
    assert await sink.wait_for(199) == [str(number) for number in range(1, 200)]


async def test_an_unfollowed_sink_hears_nothing_more(bus: Bus) -> None:
    """Bus hands an unfollowed sink nothing, and another one of the channel everything."""
    before, after = Collector(), Collector()
    await bus.follow("a", before)
    await bus.unfollow("a")
    await bus.follow("a", after)
    await bus.publish([Record("a", b"1")])
    assert await after.wait_for(1) == ["1"]
    assert before.texts == []


async def test_following_a_busy_channel_loses_nothing(bus: Bus) -> None:
    """Bus hands over all that is published past the position a sink was started at."""

    async def flood() -> None:
        for number in range(2000):
            await bus.publish([Record("a", str(number).encode())])

    flooding = asyncio.create_task(flood())
    for _ in range(20):
        await asyncio.sleep(0.002)
        sink = Collector()
        await bus.follow("a", sink)
        assert sink.position is not None
        begin = sink.position.offset
        expected = [str(number) for number in range(begin, 2000)]
        got = await sink.wait_for(min(5, len(expected)))
        assert got == expected[: len(got)]
        await bus.unfollow("a")
    await flooding


async def test_a_listener_that_fails_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bus survives an error of the backend's listener."""
    monkeypatch.setattr("app.bus.bus._RETRY_SECONDS", 0.01)
    bus, sink = Bus(FlakyBackend(lambda _: ALL)), Collector()
    async with bus.running():
        await bus.follow("a", sink)
        await bus.publish([Record("a", b"1")])
        assert await sink.wait_for(1) == ["1"]


async def test_an_error_while_following_is_told_as_it_is() -> None:
    """Bus raises what the backend raised, and can follow the channel later."""
    backend = FlakyBackend(lambda _: ALL)
    backend.failures, backend.refuse_follow = 0, True
    bus, sink = Bus(backend), Collector()
    async with bus.running():
        with pytest.raises(ConnectionError, match="the backend said no"):
            await bus.follow("a", sink)
        backend.refuse_follow = False
        await bus.follow("a", sink)
        await bus.publish([Record("a", b"1")])
        assert await sink.wait_for(1) == ["1"]


async def test_a_delivery_that_fails_deafens_nobody() -> None:
    """Bus whose sink raises logs it once, counts it, tells the sink, and hands over what comes later."""
    told: list[str] = []

    class Counting(Meter):
        def failed(self, kind: str) -> None:
            told.append(kind)

    class Faulty(Collector):
        ended = 0

        def deliver(self, batch: Batch) -> None:
            if batch.messages[0].data == b"bad":
                msg = "a bug"
                raise RuntimeError(msg)
            super().deliver(batch)

        def failed(self) -> None:
            self.ended += 1

    meter: Meter = Counting()  # type: ignore[abstract] # it counts nothing else
    bus, sink = Bus(MemoryBackend(lambda _: ALL), meter), Faulty()
    with capture_logs() as logs:
        async with bus.running():
            await bus.follow("a", sink)
            for text in (b"1", b"bad", b"2"):
                await bus.publish([Record("a", text)])
                await asyncio.sleep(0)
            assert await sink.wait_for(2) == ["1", "2"]
    assert sink.ended == 1
    assert told == ["delivery"]
    assert [(line["event"], line["channel"]) for line in logs] == [("delivery_failed", "a")]


async def test_a_sink_that_cannot_even_be_ended_deafens_nobody() -> None:
    """Bus goes on with a channel, and with all others, when its sink and the meter fail to take the failure in."""

    class Stubborn(Collector):
        def deliver(self, batch: Batch) -> None:
            super().deliver(batch)
            if self.texts == ["1"]:
                msg = "a bug"
                raise RuntimeError(msg)

        def failed(self) -> None:
            super().failed()
            msg = "a bug in ending, too"
            raise RuntimeError(msg)

    class Broken(Meter):
        def failed(self, kind: str) -> None:
            msg = f"a bug in counting: {kind}"
            raise RuntimeError(msg)

    meter: Meter = Broken()  # type: ignore[abstract] # it counts nothing else
    bus, stubborn, other = Bus(MemoryBackend(lambda _: ALL), meter), Stubborn(), Collector()
    with capture_logs() as logs:
        async with bus.running():
            await bus.follow("a", stubborn)
            await bus.follow("b", other)
            await bus.publish([Record("a", b"1"), Record("b", b"2")])
            await bus.publish([Record("a", b"3")])
            assert await other.wait_for(1) == ["2"]
            assert await stubborn.wait_for(2) == ["1", "3"]
    assert stubborn.failures == 1
    assert {(line["event"], line["channel"]) for line in logs} == {("delivery_failed", "a")}


class Unreadable:
    """A batch whose channel can be read once: by the listener, and not by the pump."""

    def __init__(self, channel: str) -> None:
        self._channels = [channel]

    @property
    def channel(self) -> str:
        return self._channels.pop()


class UnreadableBackend(MemoryBackend):
    """Hands out an unreadable batch in place of the first."""

    handed_over = False

    async def next_batch(self) -> Batch:
        batch = await super().next_batch()
        if self.handed_over:
            return batch
        self.handed_over = True
        return cast("Batch", Unreadable(batch.channel))


async def test_a_pump_that_fails_is_logged_ends_what_it_may_have_lost_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bus whose pump fails says so, ends every subscription, and hands over what comes later."""
    monkeypatch.setattr("app.bus.bus._RETRY_SECONDS", 0.01)
    bus, sinks = Bus(UnreadableBackend(lambda _: ALL)), [Collector(), Collector()]
    with capture_logs() as logs:
        async with bus.running():
            for channel, sink in zip("ab", sinks, strict=True):
                await bus.follow(channel, sink)
            await bus.publish([Record("a", b"lost")])
            await sinks[1].wait_for_failure()
            await bus.publish([Record("a", b"1"), Record("b", b"2")])
            assert [await sink.wait_for(1) for sink in sinks] == [["1"], ["2"]]
    assert [sink.failures for sink in sinks] == [1, 1]
    assert [line["event"] for line in logs] == ["pump_failed"]


class CancellingBackend(MemoryBackend):
    """Has something cancelled that its listener waits for, once."""

    cancelled = False

    async def next_batch(self) -> Batch:
        if not self.cancelled:
            self.cancelled = True
            raise asyncio.CancelledError
        return await super().next_batch()


async def test_a_listener_that_waits_for_something_cancelled_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bus takes a cancellation that nobody asked its listener for as one more error of the backend."""
    monkeypatch.setattr("app.bus.bus._RETRY_SECONDS", 0.01)
    bus, sink = Bus(CancellingBackend(lambda _: ALL)), Collector()
    async with bus.running():
        await bus.follow("a", sink)
        await bus.publish([Record("a", b"1")])
        assert await sink.wait_for(1) == ["1"]


class HalfReadyBackend(MemoryBackend):
    """Hands out the first batch, and fails once when it is asked for what else is at hand."""

    handed_over = 0
    failures = 1

    def ready_batch(self) -> Batch | None:
        if self.handed_over and self.failures:
            self.failures -= 1
            msg = "a bug"
            raise RuntimeError(msg)
        batch = super().ready_batch()
        self.handed_over += batch is not None
        return batch


async def test_a_listener_that_fails_half_way_hands_over_what_it_has() -> None:
    """Bus hands over the batches that it has taken when the backend fails at the next one, and logs the failure."""
    bus, sinks = Bus(HalfReadyBackend(lambda _: ALL)), [Collector(), Collector()]
    with capture_logs() as logs:
        async with bus.running():
            await bus.follow("a", sinks[0])
            await bus.follow("b", sinks[1])
            await bus.publish([Record("a", b"1"), Record("b", b"2")])
            assert [await sink.wait_for(1) for sink in sinks] == [["1"], ["2"]]
    assert [line["event"] for line in logs] == ["listener_failed"]


class FloodBackend(MemoryBackend):
    """Has a batch ready whenever it is asked, so that its listener never has to wait."""

    handed_over = 0

    async def next_batch(self) -> Batch:
        if self.handed_over == 5000:
            await asyncio.Event().wait()
        self.handed_over += 1
        return Batch("a", self.epoch, (Message(self.handed_over, 0, b"x"),))


async def test_queues_stay_short_under_a_flood() -> None:
    """Bus gives its readers their turn, so that no queue grows with what is published."""
    backend = FloodBackend(lambda _: ALL)
    bus, waiting = Bus(backend), []

    class Measure(Collector):
        def deliver(self, batch: Batch) -> None:
            waiting.append(backend.handed_over - batch.last)
            super().deliver(batch)

    sink = Measure()
    async with bus.running():
        await bus.follow("a", sink)
        await sink.wait_for(5000)
    assert max(waiting) <= 32


async def test_a_sink_that_fails_is_told_and_others_hear_on(bus: Bus) -> None:
    """Bus tells a sink that fails, and goes on with it and all others."""

    class Failing(Collector):
        def deliver(self, batch: Batch) -> None:
            super().deliver(batch)
            if self.texts == ["1"]:
                msg = "a bug"
                raise RuntimeError(msg)

    failing, other = Failing(), Collector()
    await bus.follow("a", failing)
    await bus.follow("b", other)
    await bus.publish([Record("a", b"1"), Record("b", b"2")])
    await bus.publish([Record("a", b"3")])
    assert await other.wait_for(1) == ["2"]
    assert await failing.wait_for(2) == ["1", "3"]
    assert failing.failures == 1


class LateBackend(MemoryBackend):
    """Has handed out a batch before it says where a channel that is followed begins."""

    async def follow(self, channel: str) -> Position:
        position = await super().follow(channel)
        await self.append([Record(channel, b"early")])
        for _ in range(10):
            await asyncio.sleep(0)
        return position


async def test_what_comes_before_a_sink_is_started_is_handed_over_after_it() -> None:
    """Bus keeps what is handed out while it asks where a channel begins."""
    bus, sink = Bus(LateBackend(lambda _: ALL)), Collector()
    async with bus.running():
        await bus.follow("a", sink)
        assert sink.position is not None
        assert sink.position.offset == 0
        assert await sink.wait_for(1) == ["early"]


async def test_a_channel_that_is_followed_again_hears_nothing_from_before(bus: Bus) -> None:
    """Bus hands a sink nothing that it pulled for the one before it."""

    class Placed(Collector):
        def deliver(self, batch: Batch) -> None:
            assert self.position is not None
            assert batch.first == self.position.offset + 1
            self.position = Position("", batch.last)
            super().deliver(batch)

    for number in range(50):
        sink = Placed()
        await bus.follow("a", sink)
        publishing = bus.publish([Record("a", b"1")])
        for _ in range(number % 7):
            await asyncio.sleep(0)
        await bus.unfollow("a")
        await publishing
        assert sink.failures == 0
    sink = Placed()
    await bus.follow("a", sink)
    await bus.publish([Record("a", b"2")])
    assert await sink.wait_for(1) == ["2"]
    assert sink.failures == 0

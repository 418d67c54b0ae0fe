"""The log in memory."""

import asyncio
import time
import tracemalloc

import pytest

from app.bus.backend import KEY_LIFETIME
from app.bus.bus import Bus
from app.bus.memory.backend import LOG_BYTES, MemoryBackend
from app.bus.memory.keys import MAX_KEYS
from app.bus.memory.log import MemoryLogs
from app.core.channel import ACCESS, Channel, HistoryWindow, Registry
from app.core.delivery.encodings import PLAIN_FRAMES
from app.core.delivery.hub import Hub
from app.core.errors import OverloadedError
from app.core.message import Position, Published, Record
from app.core.resume import Gap, Reason, Start
from app.core.rights.policy import ANONYMOUS
from tests.bus.conformance import ALL, Conformance, append, check_forgotten, texts


class MemorySubject:
    """A memory backend whose clocks a test can set forward."""

    def __init__(self, *, log_bytes: int = LOG_BYTES, max_keys: int = MAX_KEYS) -> None:
        self.retention: dict[str, HistoryWindow] = {}
        self.offset = 0.0
        self.jump = 0.0
        """How far the wall's clock is from the other one, besides."""
        self.backend = MemoryBackend(
            lambda channel: self.retention.get(channel, ALL),
            clock=lambda: time.time() + self.offset + self.jump,
            monotonic=lambda: time.monotonic() + self.offset,
            log_bytes=log_bytes,
            max_keys=max_keys,
        )

    async def age(self, seconds: float) -> None:
        self.offset += seconds


@pytest.fixture
def subject() -> MemorySubject:
    return MemorySubject()


class TestMemory(Conformance):
    """MemoryBackend keeps the contract."""


async def test_the_log_is_bounded_by_size(subject: MemorySubject) -> None:
    """MemoryBackend lets go of what the history's size no longer covers."""
    subject.retention["a"] = HistoryWindow(size=3, ttl=1000)
    for number in range(10):
        await append(subject, "a", str(number))
    assert await texts(subject, "a", history=ALL) == ["7", "8", "9"]


async def test_a_follower_gets_more_than_the_history_holds(subject: MemorySubject) -> None:
    """MemoryBackend lets go of what the history no longer covers only when it has handed it out."""
    subject.retention["a"] = HistoryWindow(size=3, ttl=1000)
    await subject.backend.follow("a")
    for number in range(10):
        await append(subject, "a", str(number))
    assert [message.data for message in (await subject.backend.next_batch()).messages] == [b"%d" % n for n in range(10)]
    await append(subject, "a", "10")
    assert await texts(subject, "a", history=ALL) == ["8", "9", "10"]


async def test_the_log_is_bounded_by_age_though_nobody_publishes_there(subject: MemorySubject) -> None:
    """MemoryBackend lets go of old messages of an idle channel when it sweeps."""
    subject.retention["a"] = HistoryWindow(size=10, ttl=60)
    await append(subject, "a", "1")
    await subject.backend.follow("a")
    await subject.age(120)
    await subject.backend.sweep()
    assert await texts(subject, "a", history=ALL) == []
    assert await append(subject, "a", "2") == [2]


async def test_names_that_hold_nothing_cost_nothing(subject: MemorySubject) -> None:
    """MemoryBackend forgets a name whose last message has expired, and takes no memory for ten thousand."""
    tracemalloc.start()
    for number in range(10_000):
        subject.retention[f"c{number}"] = HistoryWindow(size=10, ttl=60)
    before, _ = tracemalloc.get_traced_memory()
    await subject.backend.append([Record(f"c{number}", b"1") for number in range(10_000)])
    await subject.age(61)
    await subject.backend.sweep()
    await subject.age(61)
    await subject.backend.sweep()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held - before < 100_000


async def test_a_flood_of_names_takes_no_more_than_the_bound() -> None:
    """MemoryBackend counts names as it counts messages, and forgets the oldest that nobody follows."""
    subject = MemorySubject(log_bytes=1_000_000)
    await subject.backend.follow("kept")
    tracemalloc.start()
    for number in range(20_000):
        await append(subject, f"c{number}", "1")
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2_000_000
    assert await append(subject, "kept", "1") == [1]


async def test_names_that_were_only_followed_leave_nothing(subject: MemorySubject) -> None:
    """MemoryBackend forgets a name at once that nobody published to when nobody follows it any more."""
    await append(subject, "kept", "1")
    for number in range(100):
        await subject.backend.follow(f"c{number}")
        await subject.backend.unfollow(f"c{number}")
    assert "<MemoryBackend 1 channels, 0 followed>" in repr(subject.backend)
    assert await texts(subject, "kept") == ["1"]


async def test_a_clock_that_jumps_shortens_and_lengthens_nothing(subject: MemorySubject) -> None:
    """MemoryBackend keeps messages and keys as long as it says, whatever the clock on the wall does meanwhile."""
    subject.retention["a"] = history = HistoryWindow(size=10, ttl=60)
    await append(subject, "a", "before")
    for jump in (365 * 24 * 3600.0, -365 * 24 * 3600.0):
        subject.jump = jump
        await subject.backend.append([Record("a", b"during", f"{jump}")])
        await subject.backend.sweep()
    subject.jump = 0
    await append(subject, "a", "after")
    assert await texts(subject, "a", history=history) == ["before", "during", "during", "after"]
    (replayed,) = await subject.backend.append([Record("a", b"during", "-31536000.0")])
    assert isinstance(replayed, Published)
    assert replayed.replayed
    await subject.age(61)
    assert await texts(subject, "a", history=history) == []
    await subject.backend.sweep()
    assert await texts(subject, "a", history=ALL) == []
    await subject.age(KEY_LIFETIME)
    (stored,) = await subject.backend.append([Record("a", b"another", f"{jump}")])
    assert isinstance(stored, Published)
    assert not stored.replayed


async def test_a_sweep_lets_others_go_on(subject: MemorySubject) -> None:
    """MemoryBackend forgets tens of thousands of messages and names by turns, and serves pushes meanwhile."""
    subject.retention = {name: HistoryWindow(size=100_000, ttl=60) for name in ("a", *map(str, range(30_000)))}
    await subject.backend.append([Record("a", b"1")] * 30_000)
    await subject.backend.append([Record(f"{number}", b"1") for number in range(30_000)])
    await subject.age(61)
    sweeping = asyncio.create_task(subject.backend.sweep())
    turns = 0
    while not sweeping.done():
        if turns % 5 == 0:
            await append(subject, "fresh", "1")
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10
    await subject.age(61)
    await subject.backend.sweep()
    assert "<MemoryBackend 1 channels, 0 followed>" in repr(subject.backend)
    assert await texts(subject, "a") == []


async def test_names_that_come_and_go_again_and_again_leave_nothing(subject: MemorySubject) -> None:
    """MemoryBackend holds no more after a name was forgotten and came back a hundred times."""
    names = [f"c{number}" for number in range(100)]
    subject.retention = {name: HistoryWindow(size=10, ttl=60) for name in names}
    tracemalloc.start()
    for _ in range(100):
        await subject.backend.append([Record(name, b"1") for name in names])
        await subject.age(130)
        await subject.backend.sweep()
        await subject.backend.append([Record(name, b"1") for name in names])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 300_000


async def test_no_offset_comes_twice(subject: MemorySubject) -> None:
    """MemoryBackend begins a name that it has forgotten, and new ones, after whatever was forgotten."""
    subject.retention["a"] = subject.retention["b"] = HistoryWindow(size=10, ttl=60)
    await append(subject, "a", "1", "2", "3")
    await subject.age(200)
    await subject.backend.sweep()
    assert (await subject.backend.head("a"), await subject.backend.head("new")) == (3, 3)
    assert await append(subject, "a", "4") == [4]
    page = await subject.backend.read("b", 0, 10, ALL)
    assert (page.first, page.head, page.messages) == (4, 3, ())


async def test_a_position_of_a_forgotten_name_is_its_place_or_a_gap(subject: MemorySubject) -> None:
    """Subscriber with a position of a forgotten name gets every later message, and is told of a gap before it."""
    subject.retention["short"] = subject.retention["long"] = HistoryWindow(size=10, ttl=60)

    async def forget() -> None:
        await subject.age(200)
        await subject.backend.sweep()

    await check_forgotten(subject.backend, forget)


async def test_a_key_keeps_no_data(subject: MemorySubject) -> None:
    """MemoryBackend remembers a key and lets go of the message that was stored under it."""
    subject.retention["a"] = HistoryWindow(size=0, ttl=60)
    tracemalloc.start()
    for number in range(50):
        await subject.backend.append([Record("a", b"1" * 1_000_000, str(number))])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 5_000_000
    (outcome,) = await subject.backend.append([Record("a", b"1" * 1_000_000, "7")])
    assert outcome == Published(Position(subject.backend.epoch, 8), replayed=True)


async def test_the_number_of_keys_is_bounded() -> None:
    """MemoryBackend refuses one more key than it has room for, of whatever channel, until the oldest are forgotten."""
    subject = MemorySubject(max_keys=3)
    for number in range(3):
        await subject.backend.append([Record(f"c{number}", b"1", "k", "someone")])
    (refused,) = await subject.backend.append([Record("more", b"1", "k", "someone")])
    assert isinstance(refused, OverloadedError)
    assert "3 idempotency keys of the last 10 minutes" in str(refused)
    known, keyless = await subject.backend.append([Record("c1", b"1", "k", "someone"), Record("more", b"1")])
    assert known == Published(Position(subject.backend.epoch, 1), replayed=True)
    assert keyless == Published(Position(subject.backend.epoch, 1))
    await subject.age(KEY_LIFETIME + 1)
    (taken,) = await subject.backend.append([Record("more", b"1", "k")])
    assert isinstance(taken, Published)


async def test_strangers_leave_room_for_the_keys_of_others() -> None:
    """MemoryBackend refuses strangers more than half of the keys it has room for, again and again, and no one else."""
    subject = MemorySubject(max_keys=4)
    for _ in range(2):
        for number in range(4):
            outcomes = await subject.backend.append([Record(f"c{number}", b"1", "k")])
            assert isinstance(outcomes[0], Published if number < 2 else OverloadedError)
        assert "2 idempotency keys of publishers without one of PUSH_KEYS" in str(outcomes[0])
        for number in range(2):
            (taken,) = await subject.backend.append([Record(f"c{number}", b"1", "k", "someone")])
            assert isinstance(taken, Published)
        (refused,) = await subject.backend.append([Record("c2", b"1", "k", "someone")])
        assert isinstance(refused, OverloadedError)
        await subject.age(KEY_LIFETIME + 1)


async def test_keys_that_expire_together_are_forgotten_in_turns() -> None:
    """MemoryBackend forgets a hundred thousand keys without holding the loop, and takes new ones meanwhile."""
    subject = MemorySubject()
    subject.retention["a"] = HistoryWindow(size=0, ttl=60)
    for number in range(0, MAX_KEYS, 1000):
        await subject.backend.append(
            [Record("a", b"1", f"k{place}", "named") for place in range(number, number + 1000)]
        )
    await subject.age(KEY_LIFETIME + 1)
    (stored,) = await subject.backend.append([Record("a", b"1", f"k{MAX_KEYS - 1}", "named")])
    assert isinstance(stored, Published)
    assert not stored.replayed
    turns = 0
    sweeping = asyncio.create_task(subject.backend.sweep())
    while not sweeping.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10


async def test_the_log_is_bounded_over_all_channels() -> None:
    """MemoryBackend lets go of the oldest messages, whosever they are, and holds no more than its bound."""
    subject = MemorySubject(log_bytes=100_000)
    tracemalloc.start()
    for number in range(300):
        await subject.age(0.01)
        await append(subject, f"c{number % 7}", f"{number}".ljust(1000, "0"))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 150_000
    left = sorted([int(text[:3]) for channel in range(7) for text in await texts(subject, f"c{channel}")])
    assert left == list(range(300 - len(left), 300))
    assert 80 <= len(left) <= 100


async def test_a_busy_channel_that_keeps_little_takes_nothing_from_others() -> None:
    """MemoryBackend counts what it holds, not what was published: a channel of three messages crowds out nobody."""
    subject = MemorySubject(log_bytes=100_000)
    subject.retention["busy"] = HistoryWindow(size=3, ttl=1000)
    await append(subject, "quiet", "1")
    for _ in range(1000):
        await subject.age(0.001)
        await append(subject, "busy", "1" * 1000)
    assert await texts(subject, "quiet") == ["1"]


async def test_who_needed_what_had_to_go_is_told_of_a_gap() -> None:
    """Subscriber whose messages the bound took, before or after it subscribed, is told that they have expired."""
    subject = MemorySubject(log_bytes=20_000)
    bus = Bus(subject.backend)
    hub = Hub(bus, Registry((Channel("a"), Channel("b")), Channel("")), tail_bytes=1000)
    async with bus.running():
        await append(subject, "a", *["1" * 100] * 10)
        await append(subject, "b", *["1" * 1000] * 30)
        since = Position(subject.backend.epoch, 1)
        subscription, where = await hub.subscribe("a", ANONYMOUS, PLAIN_FRAMES, Start(since=since))
        assert where.gap == Gap(str(since), Position(since.epoch, 11), Reason.EXPIRED)
        hub.unsubscribe(subscription)


async def test_a_follower_goes_on_behind_what_had_to_go() -> None:
    """MemoryBackend whose bound took what it had not handed out yet goes on with what came after it."""
    subject = MemorySubject(log_bytes=20_000)
    for channel in "ab":
        await subject.backend.follow(channel)
    await append(subject, "a", "gone")
    await append(subject, "b", *["1" * 1000] * 30)
    batch = await subject.backend.next_batch()
    assert (batch.channel, batch.last) == ("b", 30)
    assert batch.first > 10
    await append(subject, "a", "2")
    batch = await subject.backend.next_batch()
    assert (batch.channel, batch.first) == ("a", 2)


async def test_what_was_taken_back_is_handed_out_first(subject: MemorySubject) -> None:
    """MemoryBackend hands out what was taken back before the messages that wait, however long they have."""
    for channel in ("a", "b", ACCESS):
        await subject.backend.follow(channel)
        await append(subject, channel, "1")
    assert [(await subject.backend.next_batch()).channel for _ in range(3)] == [ACCESS, "a", "b"]


async def test_each_backend_has_an_epoch_of_its_own() -> None:
    """MemoryBackend of another process cannot be mistaken for this one."""
    assert MemoryBackend(lambda _: ALL).epoch != MemoryBackend(lambda _: ALL).epoch


async def test_it_says_what_it_holds(subject: MemorySubject) -> None:
    """MemoryBackend's repr counts its channels."""
    await subject.backend.append([Record("a", b"1")])
    assert repr(subject.backend) == "<MemoryBackend 1 channels, 0 followed>"


def test_a_log_keeps_little_beyond_its_history() -> None:
    """Log holds at most a sixteenth more messages than its history while others come, and none for much longer."""
    window = HistoryWindow(size=160, ttl=16)
    logs = MemoryLogs(LOG_BYTES, ())
    for _ in range(170):
        logs.append("a", 0, 0, b"1")
    assert not logs.is_overdue("a", window, 17_000)
    assert logs.is_overdue("a", window, 17_001)
    logs.append("a", 0, 0, b"1")
    assert logs.is_overdue("a", window, 0)
    assert not logs.trim("a", window, 0)
    assert not logs.is_overdue("a", window, 0)
    assert not logs.is_overdue("b", window, 0)


def test_a_history_is_asked_for_only_when_a_log_may_hold_more() -> None:
    """Log asks for its history at its first message, when it holds a sixteenth more, and again after a while."""
    window = HistoryWindow(size=160, ttl=16)
    logs = MemoryLogs(LOG_BYTES, ())
    asked = []
    for number, stamp in enumerate([0] * 175 + [1000] * 2 + [1999] * 2):
        logs.append("a", 0, stamp, b"1")
        for channel in logs.take_due():
            asked.append(number)
            if logs.is_overdue(channel, window, stamp):
                logs.trim(channel, window, stamp)
    assert asked == [0, 170, 175]

"""The follower, without a database: what is heard and what is fetched become each channel's messages, once."""

import asyncio
import time

import pytest

from app.bus import follower as module
from app.bus.follower import Follower
from app.bus.place import Place
from app.core.channel import ACCESS
from app.core.errors import UnavailableError
from app.core.message import Batch, EpochChange, Message
from tests.support.readers import until


class Log:
    """What the database holds, as ``fetch`` reads it."""

    def __init__(self) -> None:
        self.lineage = "e"
        self.channels: dict[str, list[Message]] = {}
        self.asked: list[dict[str, int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    def append(self, channel: str, *texts: str) -> Batch:
        """Store messages and return the batch that a notification would carry."""
        messages = self.channels.setdefault(channel, [])
        new = [Message(len(messages) + 1 + index, 0, text.encode()) for index, text in enumerate(texts)]
        messages += new
        return Batch(channel, "e", tuple(new))

    def trim(self, channel: str, offset: int) -> None:
        """Lose the messages up to ``offset``."""
        self.channels[channel] = [
            message._replace(data=b"") if message.offset <= offset else message for message in self.channels[channel]
        ]

    async def fetch(self, wanted: dict[str, int]) -> dict[str, tuple[Place, tuple[Message, ...]]]:
        self.asked.append(wanted)
        found = {
            channel: (
                self.place(channel),
                tuple(m for m in self.channels.get(channel, []) if m.offset > after and m.data)[:3],
            )
            for channel, after in wanted.items()
        }
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return found

    def place(self, channel: str) -> Place:
        return Place(self.lineage, len(self.channels.get(channel, [])))

    async def head(self, channel: str) -> Place:
        return self.place(channel)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def follower(log: Log) -> Follower:
    return Follower(log.fetch)


def hear(follower: Follower, batch: Batch) -> None:
    """Let the follower hear what a commit has sealed."""
    follower.hear(batch.channel, batch.epoch, batch.messages)


async def take(follower: Follower, count: int) -> list[tuple[int, str]]:
    """Take batches until they hold ``count`` messages."""
    taken: list[tuple[int, str]] = []
    async with asyncio.timeout(5):
        while len(taken) < count:
            batch = await follower.next_batch()
            assert isinstance(batch, Batch)
            taken += [(message.offset, message.data.decode()) for message in batch.messages]
    return taken


async def is_idle(follower: Follower) -> bool:
    """Tell whether there is nothing to hand out and nothing to fetch."""
    task = asyncio.create_task(follower.next_batch())
    for _ in range(10):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    return task.cancelled()


async def test_what_is_heard_is_handed_out_without_a_fetch(follower: Follower, log: Log) -> None:
    """Follower hands out messages that follow its cursor as they come with notifications."""
    await follower.follow("a", log.head)
    hear(follower, log.append("a", "1", "2"))
    hear(follower, log.append("a", "3"))
    assert await take(follower, 3) == [(1, "1"), (2, "2"), (3, "3")]
    assert log.asked == []


async def test_what_is_known_is_dropped(follower: Follower, log: Log) -> None:
    """Follower drops repeated notifications, and of overlapping ones takes what is new."""
    await follower.follow("a", log.head)
    first, second = log.append("a", "1", "2"), log.append("a", "3")
    hear(follower, first)
    hear(follower, first)
    assert await take(follower, 2) == [(1, "1"), (2, "2")]
    hear(follower, first)
    follower.look("a", 2)
    hear(follower, Batch("a", "e", first.messages + second.messages))
    assert await take(follower, 1) == [(3, "3")]
    assert await is_idle(follower)


async def test_what_is_missing_is_fetched(follower: Follower, log: Log) -> None:
    """Follower fetches what it did not hear, in as many steps as it takes, before anything later."""
    await follower.follow("a", log.head)
    log.append("a", "1", "2", "3", "4", "5")
    hear(follower, log.append("a", "6"))
    assert await take(follower, 6) == [(number, str(number)) for number in range(1, 7)]
    assert log.asked == [{"a": 0}, {"a": 3}]


async def test_a_hole_in_the_log_is_skipped(follower: Follower, log: Log) -> None:
    """Follower goes on behind messages that the log no longer holds."""
    await follower.follow("a", log.head)
    log.append("a", "1", "2", "3")
    log.trim("a", 2)
    follower.look("a", 3)
    assert await take(follower, 1) == [(3, "3")]
    log.append("a", "4")
    log.trim("a", 4)
    follower.look("a", 4)
    hear(follower, log.append("a", "5"))
    assert await take(follower, 1) == [(5, "5")]


async def test_a_hole_ends_where_the_log_says(follower: Follower, log: Log) -> None:
    """Follower skips, when a fetch finds nothing, no message that was stored while it ran."""
    await follower.follow("a", log.head)
    log.append("a", "1", "2")
    log.trim("a", 2)
    log.gate.clear()
    follower.look("a", 2)
    taking = asyncio.create_task(take(follower, 1))
    await until(lambda: log.asked, "a fetch is under way")
    hear(follower, log.append("a", "3"))
    log.gate.set()
    assert await taking == [(3, "3")]


async def test_a_forged_doorbell_loses_nothing(follower: Follower, log: Log) -> None:
    """Follower takes a doorbell for a hint only: one with a head that does not exist moves no cursor."""
    await follower.follow("a", log.head)
    follower.look("a", 1_000_000)
    assert await is_idle(follower)
    assert follower.places() == {"a": Place("e", 0)}
    hear(follower, log.append("a", "1"))
    assert await take(follower, 1) == [(1, "1")]


async def test_what_was_taken_back_comes_before_everything_else(follower: Follower, log: Log) -> None:
    """Follower that is behind in many channels fetches what was taken back first, and to its end."""
    names = [f"n{number}" for number in range(module.MAX_FETCH_CHANNELS + 1)]
    for name in [*names, ACCESS]:
        await follower.follow(name, log.head)
    for name in names:
        log.append(name, "1")
        follower.look(name, 1)
    log.append(ACCESS, "1", "2", "3", "4")  # more than one fetch finds
    follower.look(ACCESS, 4)
    batch = await follower.next_batch()
    assert isinstance(batch, Batch)
    assert (batch.channel, batch.first, batch.last) == (ACCESS, 1, 4)


async def test_what_was_taken_back_comes_before_what_is_ready(follower: Follower, log: Log) -> None:
    """Follower hands out nothing that was heard before what was taken back is here."""
    await follower.follow("a", log.head)
    await follower.follow(ACCESS, log.head)
    hear(follower, log.append("a", "1"))
    log.append(ACCESS, "1")
    follower.look(ACCESS, 1)
    assert [(await follower.next_batch()).channel for _ in range(2)] == [ACCESS, "a"]


async def test_false_hints_of_what_was_taken_back_hold_up_nobody(follower: Follower, log: Log) -> None:
    """Follower that is told of what was not taken back fetches once a rest, and hands out what it has."""
    await follower.follow("a", log.head)
    await follower.follow(ACCESS, log.head)
    for number in range(20):
        follower.look(ACCESS, 1000)
        hear(follower, log.append("a", str(number)))
        assert await take(follower, 1) == [(number + 1, str(number))]
    assert len(log.asked) < 20


async def test_nothing_is_handed_out_until_the_heads_were_compared(follower: Follower, log: Log) -> None:
    """Follower of a session that begins to listen waits, and then hands out first what was taken back meanwhile."""
    await follower.follow("a", log.head)
    await follower.follow(ACCESS, log.head)
    follower.look("a", 1000)  # a false hint: the follower rests after it
    assert await is_idle(follower)
    follower.hold()
    log.append(ACCESS, "1")  # nobody heard of it
    hear(follower, log.append("a", "1"))
    assert await is_idle(follower)
    follower.look(ACCESS, 1)
    follower.release()
    assert [(await follower.next_batch()).channel for _ in range(2)] == [ACCESS, "a"]


async def test_hints_that_come_while_the_head_is_read_are_remembered(follower: Follower, log: Log) -> None:
    """Follower begins at the head that was read, and fetches what it heard of meanwhile."""
    log.append("a", "1")
    gate = asyncio.Event()

    async def slow_head(channel: str) -> Place:
        head = await log.head(channel)
        await gate.wait()
        return head

    following = asyncio.create_task(follower.follow("a", slow_head))
    await asyncio.sleep(0)
    hear(follower, log.append("a", "2"))
    gate.set()
    assert await following == ("e", 1)
    assert await take(follower, 1) == [(2, "2")]
    assert await is_idle(follower)


async def test_a_head_that_cannot_be_read_leaves_nothing_behind(follower: Follower) -> None:
    """Follower does not follow a channel whose head could not be read."""

    async def away(_: str) -> Place:
        msg = "the database is away"
        raise UnavailableError(msg)

    with pytest.raises(UnavailableError):
        await follower.follow("a", away)
    assert len(follower) == 0


async def test_an_unfollowed_channel_is_forgotten_while_it_is_fetched(follower: Follower, log: Log) -> None:
    """Follower hands out nothing of a channel that was unfollowed while a fetch was under way."""
    for channel in "ab":
        await follower.follow(channel, log.head)
        log.append(channel, "1")
        follower.look(channel, 1)
    log.gate.clear()
    taking = asyncio.create_task(follower.next_batch())
    await until(lambda: log.asked, "a fetch is under way")
    follower.unfollow("a")
    log.gate.set()
    assert (await taking).channel == "b"
    assert await is_idle(follower)


async def test_a_failed_fetch_is_repeated(follower: Follower, log: Log) -> None:
    """Follower raises what the fetch raises, and fetches again when it is called again."""
    await follower.follow("a", log.head)
    log.append("a", "1")
    follower.look("a", 1)
    log.error = UnavailableError("away")
    with pytest.raises(UnavailableError):
        await follower.next_batch()
    log.error = None
    assert await take(follower, 1) == [(1, "1")]


async def test_a_log_that_went_back_is_followed_from_where_it_did(follower: Follower, log: Log) -> None:
    """Follower drops what the log no longer has, says so first, and hands out what it has instead."""
    await follower.follow("a", log.head)
    hear(follower, log.append("a", "1", "2", "3"))
    await take(follower, 3)
    hear(follower, log.append("a", "4"))
    log.channels["a"] = log.channels["a"][:1]
    log.append("a", "two", "three", "four", "five")
    log.lineage = "22222222F2Pe"
    assert not follower.judge("a", 4, log.place("a"))
    assert await follower.next_batch() == EpochChange("a", 1, log.lineage, 5)
    assert await take(follower, 4) == [(2, "two"), (3, "three"), (4, "four"), (5, "five")]
    hear(follower, Batch("a", "22222222", log.append("a", "six").messages))
    assert await take(follower, 1) == [(6, "six")]


async def test_another_epoch_alone_takes_nothing_back(follower: Follower, log: Log) -> None:
    """Follower of a log that has begun another epoch and lost nothing says what comes next is labelled with."""
    await follower.follow("a", log.head)
    hear(follower, log.append("a", "1", "2"))
    await take(follower, 2)
    log.lineage = "22222222F3Pe"
    assert follower.judge("a", 2, log.place("a"))
    assert await follower.next_batch() == EpochChange("a", 2, log.lineage, 2)
    assert not follower.judge("a", 1, Place("e", 1)), "what was read before something came tells nothing"
    assert await is_idle(follower)


@pytest.mark.parametrize(
    ("before", "lineage", "offset"),
    [("22222222", "22222222N5P22222222", 4), ("11111111", "22222222N5P11111111", 2)],
    ids=["retention forgot it", "its head was taken away"],
)
async def test_messages_are_passed_over_only_where_retention_forgot_a_channel(
    follower: Follower, log: Log, before: str, lineage: str, offset: int
) -> None:
    """Follower goes on behind a new beginning in its own epoch; in another, what it never had is still missed."""
    log.lineage = before
    await follower.follow("a", log.head)
    hear(follower, Batch("a", before, log.append("a", "1", "2").messages))
    await take(follower, 2)
    follower.seen = time.monotonic()
    assert follower.judge("a", 2, Place(lineage, 5))
    assert await follower.next_batch() == EpochChange("a", offset, lineage, 5)


@pytest.mark.parametrize("channels", [1, 5], ids=["one channel", "several"])
async def test_memory_of_the_follower_is_bounded(
    follower: Follower, log: Log, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Follower keeps no more than its bound of what is heard and not handed out, and loses nothing by it."""
    monkeypatch.setattr(module, "MAX_READY_BYTES", 1000)
    names = [f"c{number}" for number in range(channels)]
    for name in names:
        await follower.follow(name, log.head)
    for number in range(100):
        for name in names:
            hear(follower, log.append(name, f"{number:100}"))
    assert follower.held <= 1000 + 100
    seen: dict[str, list[int]] = {name: [] for name in names}
    async with asyncio.timeout(5):
        while any(len(offsets) < 100 for offsets in seen.values()):
            batch = await follower.next_batch()
            assert isinstance(batch, Batch)
            seen[batch.channel] += [message.offset for message in batch.messages]
    assert all(offsets == list(range(1, 101)) for offsets in seen.values())
    assert await is_idle(follower)


async def test_what_is_of_another_epoch_is_looked_up(follower: Follower, log: Log) -> None:
    """Follower reads from the log what it hears of another epoch than that of what it has, before and after a turn."""
    await follower.follow("a", log.head)
    log.append("a", "right")
    hear(follower, Batch("a", "22222222", (Message(1, 0, b"replayed"),)))
    assert await take(follower, 1) == [(1, "right")]
    log.lineage = "33333333F2Pe"
    follower.judge("a", 1, log.place("a"))
    await follower.next_batch()
    log.append("a", "right, too")
    hear(follower, Batch("a", "e", (Message(2, 0, b"replayed"),)))
    assert await take(follower, 1) == [(2, "right, too")]


async def test_hints_for_many_channels_hold_up_no_other(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Follower comes to a channel that has messages, however many forged heads of others come before and meanwhile."""
    monkeypatch.setattr(module, "MAX_FETCH_CHANNELS", 2)
    forged = 10**6

    async def flooded(wanted: dict[str, int]) -> dict[str, tuple[Place, tuple[Message, ...]]]:
        nonlocal forged
        found = await log.fetch(wanted)
        forged += 1
        for channel in "ab":
            hinted.look(channel, forged)
        return found

    hinted = Follower(flooded)
    for channel in "abc":
        await hinted.follow(channel, log.head)
    hinted.look("a", forged)
    hinted.look("b", forged)
    hinted.look("c", log.append("c", "1").last)
    assert await take(hinted, 1) == [(1, "1")]

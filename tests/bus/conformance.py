"""The contract of :mod:`app.bus.backend` as tests; every backend's test class inherits them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import pytest

from app.bus.backend import KEY_LIFETIME, PAGE_BYTES, Backend
from app.core.channel import ACCESS, HistoryWindow
from app.core.epochs import label
from app.core.errors import KeyReusedError
from app.core.message import Batch, Position, Published, Record
from app.core.resume import Reason, Start, begin

ALL = HistoryWindow(size=1_000_000, ttl=86_400)


class Subject(Protocol):
    """A connected backend, and how its world is made older."""

    retention: dict[str, HistoryWindow]

    @property
    def backend(self) -> Backend:
        """The backend under test."""

    async def age(self, seconds: float) -> None:
        """Make everything stored so far ``seconds`` older."""


def records(channel: str, *texts: str, key: str | None = None) -> list[Record]:
    return [Record(channel, text.encode(), key) for text in texts]


async def append(subject: Subject, channel: str, *texts: str) -> list[int]:
    """Append and return the offsets."""
    outcomes = await subject.backend.append(records(channel, *texts))
    return [outcome.position.offset for outcome in outcomes if isinstance(outcome, Published)]


async def epoch(subject: Subject, channel: str = "a") -> str:
    """Return what positions of the channel are labelled with."""
    return label((await subject.backend.read(channel, 0, 0, ALL)).lineage)


async def texts(
    subject: Subject, channel: str, after: int = 0, limit: int = 1000, history: HistoryWindow = ALL
) -> list[str]:
    """Read page by page, at most ``limit`` messages in all."""
    found: list[str] = []
    while len(found) < limit:
        page = await subject.backend.read(channel, after, limit - len(found), history)
        found += [message.data.decode() for message in page.messages]
        if not page.messages or page.messages[-1].offset >= page.head:
            break
        after = page.messages[-1].offset
    return found


async def collect(subject: Subject, count: int) -> list[Batch]:
    """Take batches until they hold ``count`` messages."""
    batches: list[Batch] = []
    async with asyncio.timeout(20):
        while sum(len(batch.messages) for batch in batches) < count:
            batch = await subject.backend.next_batch()
            assert isinstance(batch, Batch)
            batches.append(batch)
    return batches


def flat(batches: list[Batch]) -> list[tuple[str, int, str]]:
    return [(batch.channel, m.offset, m.data.decode()) for batch in batches for m in batch.messages]


async def returns(backend: Backend, channel: str, since: Position) -> tuple[Reason | None, list[str]]:
    """Return the reason of the gap that a subscriber with this position is told of, and all messages that it gets."""
    page = await backend.read(channel, since.offset, 1000, ALL)
    where = begin(Start(since=since), page.lineage, page.first, page.head)
    reason = None if where.gap is None else where.gap.reason
    return reason, [message.data.decode() for message in page.messages if message.offset > where.cursor]


async def check_forgotten(backend: Backend, forget: Callable[[], Awaitable[None]]) -> None:
    """Fail unless each position of a forgotten name begins at its exact place, or with a gap that is told.

    ``forget`` makes everything stored old, and has the backend forget the names that hold nothing.
    """

    async def publish(channel: str, *texts: str) -> list[Position]:
        outcomes = await backend.append(records(channel, *texts))
        return [outcome.position for outcome in outcomes if isinstance(outcome, Published)]

    short, long = await publish("short", "1", "2", "3"), await publish("long", "1", "2", "3", "4", "5")
    *older, newest = long
    for again in range(2):
        await forget()
        for since in (*short, *older):
            assert await returns(backend, "short", since) == (Reason.EXPIRED, [])
            assert await returns(backend, "long", since) == (Reason.EXPIRED, [])
        if not again:
            assert await returns(backend, "long", newest) == (None, []), "it has all that there was"
        (at,) = await publish("short", "6")
        assert at.offset > newest.offset, "no position comes twice"
        for since in (*short, *older):
            assert await returns(backend, "short", since) == (Reason.EXPIRED, ["6"])
        (at,) = await publish("long", "6")
        assert at.offset > newest.offset
        for since in older:
            assert await returns(backend, "long", since) == (Reason.EXPIRED, ["6"])
        assert await returns(backend, "long", newest) == (Reason.EXPIRED if again else None, ["6"])


class Conformance:
    """Inherit, and give a ``subject`` fixture."""

    async def test_offsets_count_from_one_without_gaps(self, subject: Subject) -> None:
        """Backend numbers each channel's messages 1, 2, 3, … on its own."""
        assert await append(subject, "a", "1", "2") == [1, 2]
        assert await append(subject, "b", "1") == [1]
        assert await append(subject, "a", "3") == [3]

    async def test_one_batch_may_hold_many_channels_in_any_order(self, subject: Subject) -> None:
        """Backend answers the records of a batch one by one, in their order."""
        batch = [Record(channel, b"1") for channel in "zazbz"]
        outcomes = await subject.backend.append(batch)
        offsets = [outcome.position.offset for outcome in outcomes if isinstance(outcome, Published)]
        assert offsets == [1, 1, 2, 1, 3]

    async def test_positions_carry_the_epoch(self, subject: Subject) -> None:
        """Backend answers positions of its own epoch, which is of letters and digits."""
        (outcome,) = await subject.backend.append(records("a", "1"))
        assert outcome == Published(Position(await epoch(subject), 1))
        assert Position.parse(str(Position(await epoch(subject), 1)))

    async def test_data_comes_back_byte_for_byte(self, subject: Subject) -> None:
        """Backend changes no byte of the data."""
        odd = [
            '"\\u0000"',
            '"é\u2028\U0001f3b3"',
            ' { "a" : 1.0e5 } ',
            "123456789012345678901234567890",
            '"\\ud800"',
            "[\n\t1\r\n]",
        ]
        await append(subject, "a", *odd)
        assert await texts(subject, "a") == odd

    async def test_large_messages_are_stored_and_handed_out(self, subject: Subject) -> None:
        """Backend stores and hands out messages of a megabyte."""
        await subject.backend.follow("a")
        large = '"' + "é" * 500_000 + '"'
        await append(subject, "a", large, "1", large)
        assert await texts(subject, "a") == [large, "1", large]
        assert [text for _, _, text in flat(await collect(subject, 3))] == [large, "1", large]

    async def test_time_never_runs_backwards(self, subject: Subject) -> None:
        """Backend stamps messages in milliseconds, in the order of their offsets."""
        for _ in range(5):
            await append(subject, "a", "1", "2")
        times = [message.time for message in (await subject.backend.read("a", 0, 100, ALL)).messages]
        assert times == sorted(times)
        assert times[0] > 1_600_000_000_000

    async def test_a_read_starts_after_its_position_and_keeps_its_limit(self, subject: Subject) -> None:
        """Backend reads at most so many messages, the first one past the offset given."""
        for number in range(1, 8):
            await append(subject, "a", str(number))
        assert await texts(subject, "a", after=2, limit=3) == ["3", "4", "5"]
        assert await texts(subject, "a", after=7) == []
        assert await texts(subject, "a", after=99) == []

    async def test_a_page_of_small_messages_is_as_long_as_it_may_be(self, subject: Subject) -> None:
        """Backend fills a page, wherever it begins in what was appended at once: shared reads count on that."""
        await append(subject, "a", *['{"n":0}'] * 1000)
        for after in (0, 500, 768, 900):
            page = await subject.backend.read("a", after, 200, ALL)
            assert [page.messages[0].offset, len(page.messages)] == [after + 1, min(200, 1000 - after)]

    async def test_a_read_of_nothing_tells_first_and_head(self, subject: Subject) -> None:
        """Backend answers a read of no messages with the ends of the log."""
        assert (await subject.backend.read("a", 0, 0, ALL))[:3] == (1, 0, ())
        await append(subject, "a", "1", "2", "3")
        assert (await subject.backend.read("a", 0, 0, ALL))[:3] == (1, 3, ())

    async def test_a_read_shows_no_more_than_the_size(self, subject: Subject) -> None:
        """Backend shows the newest ``size`` messages, whatever is stored."""
        await append(subject, "a", "1", "2", "3")
        await append(subject, "a", "4", "5")
        page = await subject.backend.read("a", 0, 100, HistoryWindow(size=3, ttl=100))
        assert (page.first, page.head, [m.offset for m in page.messages]) == (3, 5, [3, 4, 5])
        assert (await subject.backend.read("a", 0, 100, HistoryWindow(size=0, ttl=100)))[:3] == (6, 5, ())

    async def test_a_read_shows_nothing_older_than_the_ttl(self, subject: Subject) -> None:
        """Backend hides messages older than ``ttl``, and says where what it shows begins."""
        await append(subject, "a", "1", "2")
        await subject.age(100)
        await append(subject, "a", "3")
        page = await subject.backend.read("a", 0, 100, HistoryWindow(size=100, ttl=50))
        assert (page.first, page.head, [m.offset for m in page.messages]) == (3, 3, [3])
        await subject.age(100)
        assert (await subject.backend.read("a", 0, 100, HistoryWindow(size=100, ttl=50)))[:3] == (4, 3, ())

    async def test_head_is_the_newest_offset(self, subject: Subject) -> None:
        """Backend knows the head of a channel, 0 for one without messages."""
        assert await subject.backend.head("a") == 0
        await append(subject, "a", "1", "2")
        assert await subject.backend.head("a") == 2

    async def test_a_follower_is_handed_what_comes_after_it_began(self, subject: Subject) -> None:
        """Backend hands out a followed channel's messages past the position it answered."""
        await append(subject, "a", "old")
        assert await subject.backend.follow("a") == Position(await epoch(subject), 1)
        await append(subject, "a", "1", "2")
        await append(subject, "b", "1")
        await append(subject, "a", "3")
        assert flat(await collect(subject, 3)) == [("a", 2, "1"), ("a", 3, "2"), ("a", 4, "3")]

    async def test_what_is_no_longer_followed_is_no_longer_handed_out(self, subject: Subject) -> None:
        """Backend forgets a channel that is not followed any more, and can begin again."""
        await subject.backend.follow("a")
        await subject.backend.follow("b")
        await subject.backend.unfollow("a")
        await append(subject, "a", "1")
        await append(subject, "b", "2")
        assert flat(await collect(subject, 1)) == [("b", 1, "2")]
        assert (await subject.backend.follow("a")).offset == 1
        await append(subject, "a", "3")
        assert flat(await collect(subject, 1)) == [("a", 2, "3")]

    async def test_a_flood_is_handed_out_whole_and_in_order(self, subject: Subject) -> None:
        """Backend loses and doubles nothing of many channels' messages, appended while it hands out."""
        channels = [f"c{number}" for number in range(20)]
        for channel in channels:
            await subject.backend.follow(channel)
        batches = asyncio.create_task(collect(subject, 20 * 100))
        for number in range(100):
            await subject.backend.append([Record(channel, str(number).encode()) for channel in channels])
        seen = flat(await batches)
        for channel in channels:
            mine = [(offset, text) for name, offset, text in seen if name == channel]
            assert mine == [(number + 1, str(number)) for number in range(100)]

    async def test_followers_hear_what_the_history_does_not_keep(self, subject: Subject) -> None:
        """Backend hands out the messages of a channel that keeps none."""
        subject.retention["a"] = HistoryWindow(size=0, ttl=100)
        await subject.backend.follow("a")
        await append(subject, "a", "1", "2")
        await append(subject, "a", "3")
        assert [text for _, _, text in flat(await collect(subject, 3))] == ["1", "2", "3"]

    async def test_a_key_stores_its_message_once(self, subject: Subject) -> None:
        """Backend answers a repeated key with the first position, and stores nothing."""
        first = await subject.backend.append(records("a", "1", key="k"))
        await append(subject, "a", "2")
        again = await subject.backend.append(records("a", "1", key="k"))
        assert again == [Published(Position(await epoch(subject), 1), replayed=True)]
        assert first == [Published(Position(await epoch(subject), 1))]
        assert await texts(subject, "a") == ["1", "2"]

    async def test_a_key_repeated_within_a_batch_stores_once(self, subject: Subject) -> None:
        """Backend sees a repeated key in the same batch too."""
        outcomes = await subject.backend.append([*records("a", "1", "1", key="k"), *records("a", "2")])
        mine = await epoch(subject)
        assert outcomes == [
            Published(Position(mine, 1)),
            Published(Position(mine, 1), replayed=True),
            Published(Position(mine, 2)),
        ]

    async def test_a_key_belongs_to_one_channel(self, subject: Subject) -> None:
        """Backend keeps the keys of channels apart."""
        await subject.backend.append(records("a", "1", key="k"))
        assert await subject.backend.append(records("b", "2", key="k")) == [
            Published(Position(await epoch(subject, "b"), 1))
        ]

    async def test_a_key_belongs_to_who_publishes(self, subject: Subject) -> None:
        """Backend keeps the keys of identities apart, in one batch and over several, and names a key as it was sent."""
        names = ["", "one", "other"]
        first = await subject.backend.append([Record("a", name.encode(), "order-17", name) for name in names])
        assert [type(outcome) for outcome in first] == [Published] * 3
        again = await subject.backend.append([Record("a", name.encode(), "order-17", name) for name in names])
        mine = await epoch(subject)
        assert again == [Published(Position(mine, offset), replayed=True) for offset in (1, 2, 3)]
        (refused,) = await subject.backend.append([Record("a", b"changed", "order-17", "one")])
        assert isinstance(refused, KeyReusedError)
        assert "'order-17'" in str(refused)

    async def test_a_read_keeps_its_limit_of_bytes(self, subject: Subject) -> None:
        """Backend returns a page of at most PAGE_BYTES, or of one message, and goes on from there."""
        sizes = [PAGE_BYTES // 2, PAGE_BYTES // 2, 1, PAGE_BYTES + 1, *[1000] * 600]
        written = ["1" * size for size in sizes]
        for at in range(0, len(written), 50):
            await append(subject, "a", *written[at : at + 50])
        pages, after = [], 0
        while after < len(written):
            page = await subject.backend.read("a", after, 1000, ALL)
            assert [message.offset for message in page.messages][:1] == [after + 1]
            pages.append([len(message.data) for message in page.messages])
            after = page.messages[-1].offset
        assert [size for page in pages for size in page] == sizes
        assert pages[:3] == [sizes[:2], [1], [PAGE_BYTES + 1]]
        assert max(sum(page) for page in pages if len(page) > 1) <= PAGE_BYTES

    async def test_a_key_with_another_message_is_refused(self, subject: Subject) -> None:
        """Backend refuses a known key with other data, in a later batch and in the same one."""
        await subject.backend.append(records("a", "1", key="k"))
        outcomes = await subject.backend.append([*records("a", "2", key="k"), *records("a", "3")])
        assert isinstance(outcomes[0], KeyReusedError)
        assert isinstance(outcomes[1], Published)
        same = await subject.backend.append(records("a", "4", "5", key="new"))
        assert [type(outcome) for outcome in same] == [Published, KeyReusedError]
        assert await texts(subject, "a") == ["1", "3", "4"]

    async def test_a_key_is_forgotten_after_its_lifetime(self, subject: Subject) -> None:
        """Backend takes a key for a new message when ten minutes have passed."""
        await subject.backend.append(records("a", "1", key="k"))
        await subject.age(KEY_LIFETIME + 1)
        assert await subject.backend.append(records("a", "2", key="k")) == [
            Published(Position(await epoch(subject), 2))
        ]

    async def test_health_is_good_while_connected(self, subject: Subject) -> None:
        """Backend reports itself healthy when it can be worked with."""
        assert (await subject.backend.health()).ok

    @pytest.mark.parametrize("name", ["a.b:c-d_e", "x" * 255, "UPPER"])
    async def test_every_valid_name_is_a_channel(self, subject: Subject, name: str) -> None:
        """Backend takes every name that channels.yaml may declare."""
        await subject.backend.follow(name)
        assert await append(subject, name, "1") == [1]
        assert flat(await collect(subject, 1)) == [(name, 1, "1")]

    async def test_a_channel_of_the_servers_own_is_a_channel(self, subject: Subject) -> None:
        """Backend stores, reads and hands out what was taken back, whatever the size of the commit."""
        await subject.backend.follow(ACCESS)
        large = ['"' + "x" * 5000 + '"'] * 20  # more than a notification carries
        assert await append(subject, ACCESS, "1", *large) == list(range(1, 22))
        assert await append(subject, ACCESS, "2") == [22]
        assert await texts(subject, ACCESS) == ["1", *large, "2"]
        assert [text for _, _, text in flat(await collect(subject, 22))] == ["1", *large, "2"]

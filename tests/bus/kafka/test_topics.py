"""Which topic a channel is: names, topics of our own, topics of others, and their epochs."""

import json
import struct

import pytest

from app.bus.kafka import Declared
from app.bus.kafka.names import topic_of
from app.bus.kafka.records import Fetched
from app.bus.kafka.topics import NOWHERE, lineage
from app.core.channel import MAX_MESSAGE_SIZE, HistoryWindow
from app.core.epochs import label, shared
from app.core.errors import UnavailableError
from app.core.message import Position, Published
from tests.support.kafka import Others, batch_of, kafka_worker, prefix

NAMES = [
    "a.b", "a_b", "a-b", "a:b", "a|b", "a@b", "a+b", "a=b", "a~b", "a'b", "$access", "$tickets", "a.5fb", "a_5fb",
    "a..b", ".", "..", "_2e", "a.", ".a", "a_", "_a", "A", "a", "x" * 249, "x" * 250, "x" * 255, "x" * 254 + "y",
    "-" * 255,
]  # fmt: skip


def test_no_two_channels_share_a_topic() -> None:
    """Topics of different channels have different names, also where Kafka takes ``.`` and ``_`` for the same."""
    for begin in ("", "live.", "p" * 100):
        topics = [topic_of(begin, name) for name in NAMES]
        assert len({topic.replace(".", "_") for topic in topics}) == len(NAMES)
        for topic in topics:
            assert topic not in {".", ".."}
            assert 0 < len(topic) <= 249
            assert set(topic) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def test_common_names_are_those_of_their_topics() -> None:
    """Topic of a channel with a common name is called like it."""
    assert [topic_of("live.", name) for name in ("orders", "chat.lobby", "order-events")] == [
        "live.orders", "live.chat.lobby", "live.order-events",
    ]  # fmt: skip


async def test_a_subscriber_creates_no_topic_of_a_family(url: str) -> None:
    """Topic of a family's member comes with its first message, which its subscribers get."""
    async with kafka_worker(url, declared=lambda _: Declared(is_family=True)) as worker:
        reader = await worker.follow("chat.x")
        assert reader.begin == Position(NOWHERE, 0)
        assert await worker.texts("chat.x") == []
        await worker.publish("chat.x", "1", "2")
        assert await reader.until(2) == [b"1", b"2"]
        assert not reader.faults


async def test_topics_of_others_are_channels(url: str, others: Others) -> None:
    """Channel shows what others write to its topic, whatever it is, as JSON."""
    topic = f"erp.{prefix()}orders"
    await others.create(topic)
    await others.write(topic, b'{"old": 1}')
    async with kafka_worker(url, declared=lambda _: Declared(topic)) as worker:
        reader = await worker.follow("orders")
        deep, large = b"[" * 2000, b"x" * (MAX_MESSAGE_SIZE + 1)
        await others.write(topic, b' {"a" : 1.0} ', b"plain", None, b"\xff\xfe", "grüße".encode(), deep, large)
        await worker.publish("orders", '"ours"')
        found = await reader.until(8)
        assert found[:1] == [b' {"a" : 1.0} ']
        assert [json.loads(data) for data in found[1:6]] == [
            "plain", None, {"base64": "//4="}, "grüße", deep.decode(),
        ]  # fmt: skip
        assert len(json.loads(found[6])) < MAX_MESSAGE_SIZE
        assert found[7] == b'"ours"'
        assert (await worker.texts("orders", after=1))[0] == ' {"a" : 1.0} '
        assert not reader.faults


@pytest.mark.parametrize("compression", [1, 2, 3, 4], ids=["gzip", "snappy", "lz4", "zstd"])
async def test_what_others_compress_is_read(url: str, others: Others, compression: int) -> None:
    """Channel shows what others write with any of Kafka's codecs."""
    topic = f"erp.{prefix()}orders"
    await others.create(topic)
    async with kafka_worker(url, declared=lambda _: Declared(topic)) as worker:
        reader = await worker.follow("orders")
        text = json.dumps("grüße " * 200).encode()
        await others.write(topic, text, text, compression=compression)
        assert await reader.until(2) == [text, text]


@pytest.mark.parametrize(("partitions", "why"), [(3, "has 3 partitions"), (0, "does not exist: create it")])
async def test_a_topic_that_cannot_be_a_channel_is_refused_by_its_name(
    url: str, others: Others, partitions: int, why: str
) -> None:
    """Worker refuses subscribers and publishers of a topic with partitions, or of none, and says why and which."""
    topic = f"erp.{prefix()}orders"
    if partitions:
        await others.create(topic, partitions)
    async with kafka_worker(url, declared=lambda channel: Declared(topic if channel == "orders" else None)) as worker:
        with pytest.raises(UnavailableError, match=why) as refusal:
            await worker.follow("orders")
        assert topic in str(refusal.value)
        outcomes = await worker.publish("orders", "1")
        assert isinstance(outcomes[0], UnavailableError)
        assert why in str(outcomes[0])
        assert isinstance((await worker.publish("other", "1"))[0], Published)
        if not partitions:
            await others.create(topic)
            assert isinstance((await worker.publish("orders", "1"))[0], Published)


async def test_topics_that_no_channel_names_are_not_looked_at(
    url: str, others: Others, capsys: pytest.CaptureFixture[str]
) -> None:
    """Worker says nothing of a topic that is no channel's, though a broker that is asked for none names all of them."""
    topic = f"erp.{prefix()}other"
    await others.create(topic, 3)
    async with kafka_worker(url) as worker:
        assert isinstance((await worker.publish("mine", "1"))[0], Published)
    assert topic not in capsys.readouterr().out


async def test_a_history_ends_where_its_window_does(url: str, others: Others) -> None:
    """Worker finds the oldest message of a history among many, by size and by age."""
    topic, now = f"erp.{prefix()}old", 1_700_000_000
    await others.create(topic)
    for number in range(40):
        await others.write(topic, b"1", b"2", time_ms=(now - 400 + 10 * number) * 1000)
    async with kafka_worker(url, declared=lambda _: Declared(topic), clock=lambda: now) as worker:

        async def first(size: int, ttl: int) -> int:
            return (await worker.bus.read("old", 0, 0, HistoryWindow(size, ttl))).first

        assert [await first(1000, ttl) for ttl in (1000, 400, 395, 200, 10, 9)] == [1, 1, 3, 41, 79, 81]
        assert [await first(size, 1000) for size in (80, 79, 5, 0)] == [1, 2, 76, 81]
        assert await first(5, 395) == 76


def test_what_a_transaction_leaves_in_the_log_is_no_message_and_no_gap() -> None:
    """Offsets of marks and of aborted records are messages without data; others of the log keep their offsets."""
    blob = b"".join(
        [
            at(0, batch_of([b"1"])),
            at(1, batch_of([b"2", b"3"], transactional=True, producer=7)),
            at(3, control(7, commit=False)),
            at(4, batch_of([b"4"], transactional=True, producer=7)),
            at(5, control(7, commit=True)),
            at(6, batch_of([b"5"])),
        ]
    )
    fetched = Fetched(0, 7, blob, aborted=[(7, 1)])
    assert [(message.offset, message.data) for message in fetched.messages(0)] == [
        (1, b"1"), (2, b""), (3, b""), (4, b""), (5, b"4"), (6, b""), (7, b"5"),
    ]  # fmt: skip
    assert [message.offset for message in fetched.messages(5)] == [6, 7]


def test_a_batch_that_is_missing_is_never_skipped_in_silence() -> None:
    """Messages end before a batch that a broker left out, and begin later where the log was trimmed."""
    blob = at(0, batch_of([b"1"])) + at(2, batch_of([b"3"]))
    assert [message.offset for message in Fetched(0, 3, blob).messages(0)] == [1]
    assert Fetched(0, 3, blob).begins(0)
    assert not Fetched(0, 3, at(2, batch_of([b"3"]))).begins(1)
    assert not Fetched(0, 3).begins(1)
    assert Fetched(0, 3).begins(3)
    trimmed = Fetched(5, 6, at(5, batch_of([b"1"])))
    assert trimmed.begins(0)
    assert [message.offset for message in trimmed.messages(0)] == [6]


def test_leaders_are_epochs_of_a_lineage() -> None:
    """Position is good as far as its leaders' logs go: a leader that cut the log, or another topic, shares less."""
    before = lineage("topic", [])
    assert shared(Position(NOWHERE, 0), before, 9) == 0
    at_nine = Position(label(before), 9)
    assert shared(at_nine, lineage("topic", [(1, 10)]), 20) == 9
    assert shared(at_nine, lineage("topic", [(1, 8)]), 20) == 7
    assert shared(at_nine, lineage("other", []), 20) == 0
    later = Position(label(lineage("topic", [(2, 15), (1, 8)])), 16)
    assert shared(later, lineage("topic", [(3, 17), (2, 15), (1, 8)]), 20) == 16
    assert shared(later, lineage("topic", [(4, 12), (1, 8)]), 20) == 11
    assert shared(later, lineage("topic", [(5, 30), (4, 20), (3, 18), (2, 15)], whole=False), 40) == 16


def at(offset: int, batch: bytes) -> bytes:
    """Return the batch as a log has it at this offset."""
    return struct.pack(">q", offset) + batch[8:]


def control(producer: int, *, commit: bool) -> bytes:
    """Return the mark at the end of a transaction."""
    key = struct.pack(">hh", 0, int(commit))
    whole = bytearray(batch_of([b""], transactional=True, producer=producer, key=key))
    whole[22] |= 0x20  # the last byte of the attributes
    return bytes(whole)

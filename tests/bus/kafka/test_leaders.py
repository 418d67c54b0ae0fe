"""Several brokers, where leaders change and topics are refused: it concerns those topics alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from app.bus.kafka import Declared, parse, store
from app.bus.kafka.brokers.cluster import Cluster
from app.bus.kafka.producer import Producer
from app.core.epochs import name
from app.core.errors import UnavailableError
from app.core.message import Published
from tests.support.electing import FETCH, ElectingCluster
from tests.support.kafka import KafkaWorker, kafka_worker, prefix
from tests.support.readers import ALL

_UNAUTHORISED = 29


@pytest.fixture(scope="module")
def electing() -> Iterator[ElectingCluster]:
    with ElectingCluster() as cluster:
        yield cluster


@pytest.fixture
def topics(electing: ElectingCluster) -> str:
    """Create the topics of the channels a and b; return what their names begin with."""
    begin = prefix()
    for channel in "ab":
        electing.create(begin + channel)
    return begin


async def published(worker: KafkaWorker, channel: str, *texts: str) -> list[int]:
    """Publish texts; return their offsets."""
    outcomes = await worker.publish(channel, *texts)
    return [outcome.position.offset for outcome in outcomes if isinstance(outcome, Published)]


async def test_a_leader_takes_over_without_a_loss(electing: ElectingCluster, topics: str) -> None:
    """Messages of a topic whose leader changes again and again are stored and delivered once, in order."""
    async with kafka_worker(electing.url(), declared=lambda channel: Declared(topics + channel)) as worker:
        reader = await worker.follow("a")
        for number, leader in enumerate((1, 2, 3, 1)):
            electing.lead(f"{topics}a", leader)
            assert await published(worker, "a", f"{number}", '"x"') == [2 * number + 1, 2 * number + 2]
        assert await reader.until(8) == [b"0", b'"x"', b"1", b'"x"', b"2", b'"x"', b"3", b'"x"']
        assert not reader.faults


async def test_a_leader_that_was_replaced_meanwhile_is_noticed(electing: ElectingCluster, topics: str) -> None:
    """Position in a topic whose leader was another one meanwhile, and is the same again, is of the new term."""
    electing.lead(f"{topics}a", 1)
    async with kafka_worker(electing.url(), declared=lambda channel: Declared(topics + channel)) as worker:
        assert await published(worker, "a", "1") == [1]
        before = (await worker.bus.read("a", 0, 10, ALL)).lineage
        electing.lead(f"{topics}a", 2)
        electing.lead(f"{topics}a", 1)
        after = (await worker.bus.read("a", 0, 10, ALL)).lineage
        assert name(after) != name(before)


async def test_a_topic_without_a_leader_holds_up_no_other(
    electing: ElectingCluster, topics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channel whose topic has no leader waits for one, and its publishers are refused; all others go on."""
    async with kafka_worker(electing.url(), declared=lambda channel: Declared(topics + channel)) as worker:
        reader, other = await worker.follow("a"), await worker.follow("b")
        electing.lead(f"{topics}b", -1)
        monkeypatch.setattr(store, "PATIENCE_SECONDS", 0.0)  # it has been without one for long
        assert isinstance((await worker.publish("b", "1"))[0], UnavailableError)
        assert await published(worker, "a", "1") == [1]
        assert await reader.until(1) == [b"1"]
        electing.lead(f"{topics}b", 1)
        assert await published(worker, "b", "2") == [1]
        assert await other.until(1) == [b"2"]
        assert [*reader.faults, *other.faults] == []


async def test_a_topic_that_a_broker_refuses_holds_up_no_other(
    electing: ElectingCluster, topics: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Channel whose topic this user may not read any more is named in the log, and all others go on."""
    electing.lead(f"{topics}a", 1)
    electing.lead(f"{topics}b", 2)
    async with kafka_worker(electing.url(), declared=lambda channel: Declared(topics + channel)) as worker:
        reader, other = await worker.follow("a"), await worker.follow("b")
        log = ""
        while "topic_refused" not in log:  # a fetch for something else may be the one that is refused
            electing.refuse(2, FETCH, _UNAUTHORISED)
            await asyncio.sleep(0.2)
            log += capsys.readouterr().out
        assert await published(worker, "a", "1") == [1]
        assert await reader.until(1) == [b"1"]
        assert await published(worker, "b", "2") == [1]
        assert await other.until(1) == [b"2"]
        assert [*reader.faults, *other.faults] == []
    assert "listener_lost" not in log


async def test_numbers_of_batches_begin_again_at_zero(electing: ElectingCluster) -> None:
    """Producer numbers the record after number 2³¹-1 with 0, as brokers do."""
    cluster = Cluster(parse(electing.url()))
    producer = Producer(cluster)
    await producer.begin()
    producer.stored("topic", 2**31 - 1)
    assert producer.numbers("topic")[2] == 2**31 - 1
    producer.stored("topic", 3)
    assert producer.numbers("topic")[2] == 2
    await cluster.close()

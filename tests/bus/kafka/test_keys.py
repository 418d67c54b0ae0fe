"""Idempotency keys on Kafka: what the headers of the log say."""

import asyncio
import time

from app.bus.kafka.records import KEY, SEEN, Stored
from app.bus.kafka.repeats import repeats
from app.core.errors import KeyReusedError
from app.core.message import Published
from tests.support.kafka import held, kafka_worker
from tests.support.tansu import TansuServer


async def test_keys_hold_across_workers_and_restarts(url: str) -> None:
    """Worker that has never seen a channel knows the keys of its last ten minutes, and follows those of others."""
    async with kafka_worker(url) as one, kafka_worker(url) as other:
        (first,) = await one.publish("a", "1", key="k")
        assert isinstance(first, Published)
        assert await other.publish("a", "1", key="k") == [first._replace(replayed=True)]
        (refused,) = await other.publish("a", "2", key="k")
        assert isinstance(refused, KeyReusedError)
        (second,) = await other.publish("a", "3", key="l")
        assert isinstance(second, Published)
        assert await one.publish("a", "3", key="l") == [second._replace(replayed=True)]
    async with kafka_worker(url) as later:
        assert await later.publish("a", "1", "3", key="k") != [first, second]
        assert await later.publish("a", "1", key="k") == [first._replace(replayed=True)]
        assert await later.texts("a") == ["1", "3"]


async def test_a_key_is_looked_for_in_the_last_ten_minutes_only(url: str) -> None:
    """Worker begins to read where the log is ten minutes old, and takes an older key for a new message."""
    async with kafka_worker(url, clock=lambda: time.time() - 700) as before:
        for number in range(20):
            await before.publish("a", str(number), key=f"old-{number}")
    async with kafka_worker(url) as worker:
        await worker.publish("a", "1", key="new")
        (again,) = await worker.publish("a", "0", key="old-0")
        assert isinstance(again, Published)
        assert not again.replayed
        (new,) = await worker.publish("a", "1", key="new")
        assert isinstance(new, Published)
        assert new.replayed


async def test_a_key_at_the_same_moment_is_one_message(broker: TansuServer, url: str) -> None:
    """Workers that store two messages under one key at the same moment show the first, and tell both its position."""
    async with kafka_worker(url) as one, kafka_worker(url) as other:
        await asyncio.gather(one.publish("a", "0", key="before"), other.publish("a", "0", key="before too"))
        reader = await one.follow("a")
        for number in range(20):
            both = await asyncio.gather(*(worker.publish("a", "1", key=f"k{number}") for worker in (one, other)))
            positions = {outcome.position for (outcome,) in both if isinstance(outcome, Published)}
            assert len(positions) == 1
        (last,) = await one.publish("a", "2")
        assert isinstance(last, Published)
        await reader.until(last.position.offset - 2)
        for shown in (await other.texts("a", after=2), [data.decode() for data in reader.log]):
            assert [text for text in shown if text] == ["1"] * 20 + ["2"]
        assert not reader.faults
    there = await held(broker.port, f"{url.rpartition('/')[2]}a")
    assert len(there) == last.position.offset
    assert [str(data) for data in there.values() if data is not None] == ["0", "0", *["1"] * 20, "2"]


async def test_a_key_with_another_message_at_the_same_moment_is_refused(url: str) -> None:
    """Workers that get two messages under one key at the same moment store one and refuse the other."""
    async with kafka_worker(url) as one, kafka_worker(url) as other:
        await one.publish("a", "0", key="before")
        for number in range(10):
            pairs = ((one, f"1{number}"), (other, f"2{number}"))
            both = await asyncio.gather(*(worker.publish("a", text, key=f"k{number}") for worker, text in pairs))
            assert {type(outcome) for (outcome,) in both} == {Published, KeyReusedError}
        shown = [text for text in await one.texts("a", after=1) if text]
        assert [text[1:] for text in shown] == [str(number) for number in range(10)]


async def test_a_repeat_is_told_by_what_its_writer_had_seen() -> None:
    """Record repeats a key if an earlier one has it that its writer had not seen, whoever reads, and from wherever."""
    log = [
        stored(0, "a", seen=0),
        stored(1, "b", seen=1),
        stored(2, "a", seen=0),  # its writer had seen nothing
        stored(3, None, seen=0),
        stored(4, "b", seen=2),  # its writer knew that the first one had expired
        stored(5, "a", seen=1),
        stored(6, "c", seen=0, time_ms=700_000),
        stored(7, "a", seen=0, time_ms=700_000),  # the others are ten minutes old
    ]

    async def earlier(low: int, high: int) -> list[Stored]:
        return log[low:high]

    assert await repeats(log, 0, earlier) == {2, 5}
    for begin in range(len(log)):
        assert await repeats(log[begin:], begin, earlier) == {offset for offset in (2, 5) if offset >= begin}


def stored(offset: int, key: str | None, *, seen: int, time_ms: int = 0) -> Stored:
    """Return a record with a key."""
    headers = [] if key is None else [(KEY, key.encode()), (SEEN, b"%d" % seen)]
    return Stored(offset, time_ms, b"1", headers)

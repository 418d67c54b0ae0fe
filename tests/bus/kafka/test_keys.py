"""Idempotency keys on Kafka: what the headers of the log say."""

import asyncio
import time

from app.core.errors import KeyReusedError
from app.core.message import Published
from tests.support.kafka import kafka_worker


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


async def test_publishers_with_one_key_at_the_same_moment_are_told_one_position(url: str) -> None:
    """Workers that store two messages under one key at the same moment tell both publishers the first position."""
    async with kafka_worker(url) as one, kafka_worker(url) as other:
        await asyncio.gather(one.publish("a", "0", key="before"), other.publish("a", "0", key="before too"))
        for number in range(20):
            both = await asyncio.gather(*(worker.publish("a", "1", key=f"k{number}") for worker in (one, other)))
            positions = {outcome.position for (outcome,) in both if isinstance(outcome, Published)}
            assert len(positions) == 1

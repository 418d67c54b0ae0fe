"""Thousands of subscribers that come to many channels at once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from app.bus.kafka.brokers.cluster import Cluster, Purpose
from app.bus.kafka.log import Log
from app.bus.kafka.topics import Topic
from app.core.message import Record
from tests.support.kafka import kafka_worker
from tests.support.readers import ALL, Reader


async def test_reads_of_many_channels_share_requests(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Topics, places and pages of channels that come together are asked for together: a broker answers one by one."""
    sent = Counter[str]()
    send = Cluster.send

    async def counting(cluster: Cluster, connection: Any, request: Any, seconds: float, **how: bool) -> Any:  # noqa: ANN401 — aiokafka's have no types
        sent[type(request).__name__] += 1
        return await send(cluster, connection, request, seconds, **how)

    names = [f"c{number}" for number in range(100)]
    async with kafka_worker(url) as before:
        await before.bus.publish([Record(name, b"1") for name in names])
    async with kafka_worker(url) as it:
        monkeypatch.setattr(Cluster, "send", counting)
        readers = [Reader(name, name) for name in names]
        await asyncio.gather(*(it.bus.follow(reader.channel, reader) for reader in readers))
        pages = await asyncio.gather(*(it.bus.read(name, 0, 10, ALL) for name in names))
        assert [len(page.messages) for page in pages] == [1] * len(names)
    assert sent["TopicsRequest"] < len(names) / 4
    assert sent["FetchRequest"] < len(names)


async def test_a_large_batch_is_not_left_out_for_ever(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch that is larger than what is asked of a topic comes, though others always have news: brokers send it first.

    Apache Kafka sends such a batch only where no topic before it in the fetch has anything. Tansu always does.
    """
    fetch = Log.fetch

    async def as_kafka(log: Log, node: int, purpose: Purpose, wanted: Iterable[tuple[Topic, int]], **how: Any) -> Any:  # noqa: ANN401 — passed on
        wanted = list(wanted)
        found = await fetch(log, node, purpose, wanted, **how)
        begun = False
        for topic, _ in wanted:
            part = found.get(topic.name)
            if begun and part is not None and part.fetched.blob and topic.name.endswith("large"):
                found[topic.name] = part._replace(fetched=dataclasses.replace(part.fetched, blob=b""))
            begun = begun or topic.name.endswith("busy")
        return found

    monkeypatch.setattr(Log, "fetch", as_kafka)
    async with kafka_worker(url) as it:
        for channel in ("busy", "large"):
            await it.publish(channel, "0")
        reader = (await it.follow("busy"), await it.follow("large"))[1]
        await it.publish("large", "1")
        assert await reader.until(1) == [b"1"]
        assert not reader.faults

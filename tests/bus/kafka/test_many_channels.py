"""Thousands of subscribers that come to many channels at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from app.bus.kafka.brokers.cluster import Cluster
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

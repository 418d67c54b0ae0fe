"""Thousands of subscribers that come to many channels at once: whoever waits for a turn is served, however late."""

from __future__ import annotations

import asyncio

import pytest

from app.bus.redis.sessions import address, beats
from app.bus.redis.sessions.beats import Beats
from app.bus.redis.sessions.link import Link
from app.bus.redis.sessions.session import connect
from app.bus.redis.streams import log_reads
from app.core.message import Record
from tests.bus.redis.conftest import streams
from tests.support.proxy import FaultProxy
from tests.support.readers import ALL
from tests.support.valkey import ValkeyServer


async def test_subscribers_of_many_channels_that_come_back_at_once_are_read_for(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads of 400 channels are all done, though one after the other would take ten times as long as one may wait."""
    names = [f"c{number}" for number in range(400)]
    async with FaultProxy("127.0.0.1", server.port) as proxy, streams(f"redis-stream://127.0.0.1:{proxy.port}") as it:
        await it.bus.publish([Record(name, b"1") for name in names])
        monkeypatch.setattr(log_reads, "PATIENCE_SECONDS", 2.0)
        proxy.delay(0.05)
        pages = await asyncio.gather(*(it.bus.read(name, 0, 10, ALL) for name in names))
        assert [len(page.messages) for page in pages] == [1] * len(names)
        assert (await it.backend.health()).ok


async def test_a_connection_that_answers_subscriptions_is_not_deaf(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beat that is late is no proof while subscriptions are answered: it comes behind the answers to thousands."""
    monkeypatch.setattr(beats, "DEAF_SECONDS", 0.0)
    where = address.parse(server.url())
    link = Link(
        await connect(where, where.servers[0], "test"),
        Beats("beat"),
        lambda _topic, _payload: None,
        lambda _seconds: None,
        is_sharded=False,
    )
    running = asyncio.create_task(link.run())
    link.beats.next()
    await asyncio.sleep(0.001)
    assert link.is_deaf()
    assert await link.add(["topic"])
    assert not link.is_deaf()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await link.close()

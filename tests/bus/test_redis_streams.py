"""The log in streams of Redis: of one server, and of a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import redis.asyncio

from app.bus.backend import Backend
from app.bus.redis.streams import StreamsBackend
from app.core.channel import HistoryWindow
from tests.bus.conformance import ALL, Conformance
from tests.bus.test_postgres import healthy
from tests.support.valkey import ValkeyCluster, ValkeyServer


class StreamsSubject:
    """A connected backend on servers of its own."""

    def __init__(self, url: str, servers: list[ValkeyServer]) -> None:
        self.retention: dict[str, HistoryWindow] = {}
        self.backend: Backend = StreamsBackend(url, retention=lambda channel: self.retention.get(channel, ALL))
        self._servers = servers

    async def age(self, seconds: float) -> None:
        for server in self._servers:
            async with redis.asyncio.Redis(port=server.port, decode_responses=True) as client:
                async for key in client.scan_iter("abide:*"):
                    await _age(client, key, round(seconds * 1000))


async def _age(client: redis.asyncio.Redis, key: str, by: int) -> None:
    if ":key:" in key:
        left = await client.pttl(key)
        await (client.pexpire(key, left - by) if left > by else client.delete(key))
    elif key.endswith(":head"):
        await client.hincrby(key, "time", -by)
    elif key.endswith(":log"):
        entries = await client.xrange(key)
        await client.delete(key)
        for name, fields in entries or []:
            assert name is not None
            assert fields is not None
            await client.xadd(key, {"t": int(fields["t"]) - by, "d": fields["d"]}, id=name)


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    with ValkeyCluster() as cluster:
        yield cluster


async def _connected(url: str, servers: list[ValkeyServer]) -> AsyncIterator[StreamsSubject]:
    for server in servers:
        server.run("FLUSHALL")
    subject = StreamsSubject(url, servers)
    await subject.backend.connect()
    await healthy(subject.backend)
    yield subject
    await subject.backend.disconnect()


class TestStreams(Conformance):
    """StreamsBackend keeps the contract on one server."""

    @pytest.fixture
    async def subject(self, server: ValkeyServer) -> AsyncIterator[StreamsSubject]:
        async for subject in _connected(server.url(), [server]):
            yield subject


class TestStreamsOfACluster(Conformance):
    """StreamsBackend keeps the contract on a cluster of three."""

    @pytest.fixture
    async def subject(self, cluster: ValkeyCluster) -> AsyncIterator[StreamsSubject]:
        async for subject in _connected(cluster.url(), cluster.nodes):
            yield subject

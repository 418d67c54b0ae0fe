"""Workers on Kafka in this process, and what others write to its topics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.conn import create_conn
from aiokafka.protocol.admin import CreateTopicsRequest, DeleteTopicsRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from app.bus.bus import Bus
from app.bus.kafka import Declared, KafkaBackend, parse
from app.bus.kafka.records import KEY
from app.core.channel import HistoryWindow
from app.core.message import Record
from app.core.ports import Outcome
from tests.support.readers import ALL, Reader, healthy
from tests.support.tansu import TansuServer

_UNKNOWN = 3
"""The code of a topic that does not exist."""

_WAIT_MS = 200
_READ_SECONDS = 30.0


@dataclass
class KafkaWorker:
    """What a worker process has, without the web."""

    backend: KafkaBackend
    bus: Bus
    readers: list[Reader] = field(default_factory=list)

    async def follow(self, channel: str) -> Reader:
        """Read a channel from now on."""
        reader = Reader(channel, channel)
        await self.bus.follow(channel, reader)
        self.readers.append(reader)
        return reader

    async def publish(self, channel: str, *texts: str, key: str | None = None) -> list[Outcome]:
        """Publish some texts."""
        return await self.bus.publish([Record(channel, text.encode(), key) for text in texts])

    async def texts(self, channel: str, after: int = 0, history: HistoryWindow = ALL) -> list[str]:
        """Read the texts of a channel past an offset."""
        found: list[str] = []
        while True:
            page = await self.bus.read(channel, after, 1000, history)
            found += [message.data.decode() for message in page.messages]
            if not page.messages or page.messages[-1].offset >= page.head:
                return found
            after = page.messages[-1].offset


@contextlib.asynccontextmanager
async def kafka_worker(
    url: str,
    *,
    ready: bool = True,
    declared: Callable[[str], Declared] = lambda _: Declared(),
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[KafkaWorker]:
    """Run a worker; with ``ready``, begin when it is healthy."""
    backend = KafkaBackend(parse(url), retention=lambda _: ALL, declared=declared, clock=clock)
    bus = Bus(backend)
    async with bus.running():
        if ready:
            await healthy(backend)
        yield KafkaWorker(backend, bus)


async def held(port: int, topic: str) -> dict[int, str | None]:
    """Read what a topic of our server's holds, by its offsets: a JSON text, or None where there is no message.

    There is none in a mark of a transaction, in what was compacted away, and in a record under a key that an earlier
    one has. Nobody appends or aborts meanwhile.
    """
    found: dict[int, str | None] = {}
    keys: set[bytes] = set()
    end, head = 0, 1
    connection = await create_conn("127.0.0.1", port, request_timeout_ms=5000)
    try:
        async with asyncio.timeout(_READ_SECONDS):
            while end < head:
                request = FetchRequest(_WAIT_MS, 1, 2**22, 1, [(topic, [(0, end, 2**22)])])
                ((_, ((_, code, _, head, *_, blob),)),) = (await connection.send(request)).topics
                if code == _UNKNOWN:
                    break
                assert code == 0, code
                for batch in _batches(blob):
                    for record in () if batch.is_control_batch else batch:
                        key = dict(record.headers).get(KEY)
                        found[record.offset + 1] = None if key in keys else json.loads(record.value)
                        keys |= {key} if key is not None else set()
                    end = batch.next_offset
    finally:
        await connection.close()
    return {offset: found.get(offset) for offset in range(1, end + 1)}


def _batches(blob: bytes | None) -> Iterator[Any]:
    records = MemoryRecords(blob or b"")
    while records.has_next():
        yield records.next_batch()


@dataclass(frozen=True)
class GivenBroker:
    """A broker that runs already: ``--kafka`` names it. Topics of earlier tests may be there."""

    host: str
    port: int

    def url(self, prefix: str = "") -> str:
        """Return the backend's URL for topics of this prefix."""
        return f"kafka://{self.host}:{self.port}/{prefix}"


@contextlib.contextmanager
def one_broker(given: str | None) -> Iterator[GivenBroker | TansuServer]:
    """Run a broker of our own, unless one is given by its host and port."""
    if given is not None:
        host, _, port = given.rpartition(":")
        yield GivenBroker(host, int(port))
        return
    with TansuServer() as broker:
        yield broker


def prefix() -> str:
    """Return a prefix for topics that no other test has."""
    return f"t{secrets.token_hex(4)}."


class Others:
    """Somebody else at a broker, who creates, deletes and writes topics."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._host, self._port = host, port

    async def create(self, topic: str, partitions: int = 1) -> None:
        """Create a topic."""
        ((_, code, words),) = (
            await self._ask(CreateTopicsRequest([(topic, partitions, 1, [], [])], 5000, False))  # type: ignore[list-item]  # noqa: FBT003 — by position
        ).topic_errors
        assert code == 0, words

    async def delete(self, topic: str) -> None:
        """Delete a topic."""
        await self._ask(DeleteTopicsRequest([topic], 5000))

    async def write(self, topic: str, *values: bytes | None, **batch: Any) -> None:  # noqa: ANN401 — of the batch
        """Write records of these values in one batch, whose parts may be told."""
        answer = await self._ask(ProduceRequest(None, -1, 5000, [(topic, [(0, batch_of(values, **batch))])]))
        ((_, ((_, code, *_),)),) = answer.topics
        assert code == 0

    async def _ask(self, request: Any) -> Any:  # noqa: ANN401 — aiokafka's structs have no types
        connection = await create_conn(self._host, self._port, request_timeout_ms=5000)
        try:
            return await connection.send(request)
        finally:
            await connection.close()


def batch_of(  # noqa: PLR0913 — what a batch may say
    values: Sequence[bytes | None],
    *,
    compression: int = 0,
    transactional: bool = False,
    producer: int = -1,
    time_ms: int | None = None,
    key: bytes = b"key",
) -> bytes:
    """Return a batch of records; ``compression`` is Kafka's number of a codec."""
    builder: Any = DefaultRecordBatchBuilder(
        2, compression, int(transactional), producer, 0 if producer >= 0 else -1, 0, 2**30
    )
    for number, value in enumerate(values):
        builder.append(number, time_ms or int(time.time() * 1000), key, value, [("other", None)])
    return bytes(builder.build())

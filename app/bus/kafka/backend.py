"""The Kafka backend put together: at each broker one connection for commits, one that waits for news, one for reads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from app.bus.backend import Retention
from app.bus.kafka.brokers.bootstrap import Address
from app.bus.kafka.brokers.broker_errors import NOT_READY, WORDING
from app.bus.kafka.brokers.cluster import Cluster
from app.bus.kafka.consumer import Consumer
from app.bus.kafka.keys import Keys
from app.bus.kafka.log import Log
from app.bus.kafka.log_reads import LogReads, refusing
from app.bus.kafka.store import Store
from app.bus.kafka.topics import Declarations, Declared, Topics
from app.bus.log_backend import LogBackend
from app.bus.outcomes import Outcomes
from app.core.message import Position, Record
from app.core.ports import Outcome


class KafkaBackend(LogBackend):
    """The log in Kafka: one topic of one partition for each channel.

    ``declared`` says which channels are topics of others, and which are of a family. ``clock`` returns seconds since
    1970, which become the times of messages.
    """

    def __init__(
        self,
        address: Address,
        *,
        retention: Retention,
        declared: Declarations = lambda _: Declared(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        place = address.place
        super().__init__("kafka", place, Outcomes("not connected yet", WORDING), NOT_READY)
        self._cluster = Cluster(address)
        self._topics = Topics(self._cluster, address.prefix, declared, retention)
        self._log = log = Log(self._cluster, self._topics, clock)
        self._store = Store(place, self._cluster, self._topics, log, Keys(log, clock), self._outcomes, clock)
        self._reads = LogReads(log, self._topics, self._outcomes)
        self._consumer = Consumer(
            place, self._cluster, self._topics, log, self._follower, self._store.probe, self._outcomes
        )
        self._ready = self._consumer.ready

    async def connect(self) -> None:
        """Begin to connect, and return at once: brokers that are away at start are waited for."""
        self._tasks = [asyncio.create_task(self._consumer.run(), name="kafka-consumer")]

    async def append(self, records: Sequence[Record], deadline: float | None = None) -> list[Outcome]:
        """Store the records; see the contract."""
        deadline = await self._reached(deadline)
        return await self._store.store(records, deadline)

    async def follow(self, channel: str) -> Position:
        """Begin at the head. The topic of a declared channel is created; that of a family's member is waited for."""
        await self._reached()
        if not self._topics.is_family(channel):
            with refusing(self._outcomes):
                (topic,) = (await self._topics.find([channel])).values()
                if topic is None and (problem := self._topics.missing(channel)):
                    raise problem
                if topic is None:
                    await self._topics.make([channel])
        found = await super().follow(channel)
        self._consumer.wake(channel)
        return found

    async def _close(self) -> None:
        self._topics.close()
        self._log.close()
        await self._cluster.close()

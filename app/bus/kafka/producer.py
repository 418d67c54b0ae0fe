"""The numbers of an idempotent producer, by which brokers know a batch that they are sent twice."""

from __future__ import annotations

import structlog
from aiokafka.errors import KafkaError
from aiokafka.protocol.transaction import InitProducerIdRequest

from app.bus.kafka.brokers import broker_errors
from app.bus.kafka.brokers.cluster import Cluster

NONE = (-1, -1, -1)
"""What a batch without numbers has in their place."""

_NUMBERS = 2**31
"""After as many records of a topic their numbers begin again at 0."""

_NOT_NOW = frozenset((14, 15, 16, 51))
"""Codes that say that the broker will have numbers in a moment."""

_log = structlog.get_logger(__name__)


class Producer:
    """Numbers batches, where brokers do."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.id: tuple[int, int] | None = None
        """The producer's id and epoch; None without numbers."""
        self._is_known = False
        self._gives_none = False
        self._next: dict[str, int] = {}
        """The number of each topic's next record."""

    async def begin(self) -> None:
        """Have numbers, unless brokers give none. Raises what the cluster's methods do."""
        if self._is_known:
            return
        broker = await self._cluster.any_broker()
        answer = await self._cluster.ask(broker, "commit", InitProducerIdRequest(None, 0))  # type: ignore[arg-type]
        code = answer.error_code
        if code in _NOT_NOW:
            raise KafkaError(broker_errors.of_code(code, "the numbers of an idempotent producer"))
        self._is_known, self.id = True, None if code else (answer.producer_id, answer.producer_epoch)
        self._next.clear()
        if code and not self._gives_none:
            self._gives_none = True
            _log.warning("not_idempotent", reason=broker_errors.of_code(code, "the broker gives no numbers to batches"))

    def numbers(self, topic: str) -> tuple[int, int, int]:
        """Return what the topic's next batch is numbered with."""
        return NONE if self.id is None else (*self.id, self._next.get(topic, 0))

    def stored(self, topic: str, count: int) -> None:
        """Learn that a batch of so many records is stored."""
        self._next[topic] = (self._next.get(topic, 0) + count) % _NUMBERS

    def forget(self) -> None:
        """Ask for other numbers before the next batch: those in use may be out of step."""
        self._is_known = self.id is None and self._gives_none
        self.id = None

"""broadcaster's Kafka adapter with ``acks=all``; it has no option for it, and asks for one acknowledgement."""

from __future__ import annotations

from importlib import import_module

from broadcaster._backends.kafka import KafkaBackend

_aiokafka = import_module("aiokafka")  # it has no types


class AllAcknowledged(KafkaBackend):
    """Connects as it does, but for that."""

    async def connect(self) -> None:
        """Start the producer and the consumer."""
        self._producer = _aiokafka.AIOKafkaProducer(bootstrap_servers=self._servers, acks="all")
        self._consumer = _aiokafka.AIOKafkaConsumer(bootstrap_servers=self._servers)
        await self._producer.start()
        await self._consumer.start()

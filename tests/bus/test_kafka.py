"""The log in Kafka."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from app.bus.backend import Backend
from app.bus.kafka import KafkaBackend, parse
from app.core.channel import HistoryWindow
from tests.bus.conformance import ALL, Conformance
from tests.support.kafka import GivenBroker, one_broker, prefix
from tests.support.tansu import TansuServer


async def healthy(backend: Backend) -> None:
    """Wait until the backend is connected and hears."""
    async with asyncio.timeout(20):
        while not (await backend.health()).ok:  # noqa: ASYNC110 — health is there to be asked
            await asyncio.sleep(0.005)


class KafkaSubject:
    """A connected backend with topics of its own. Its world grows older by its clock."""

    def __init__(self, server: GivenBroker | TansuServer) -> None:
        self.retention: dict[str, HistoryWindow] = {}
        self._later = 0.0
        self.backend = KafkaBackend(
            parse(server.url(prefix())),
            retention=lambda channel: self.retention.get(channel, ALL),
            clock=lambda: time.time() + self._later,
        )

    async def age(self, seconds: float) -> None:
        self._later += seconds


@pytest.fixture(scope="module")
def broker(request: pytest.FixtureRequest) -> Iterator[GivenBroker | TansuServer]:
    with one_broker(request.config.getoption("--kafka")) as broker:
        yield broker


@pytest.fixture
async def subject(broker: GivenBroker | TansuServer) -> AsyncIterator[KafkaSubject]:
    subject = KafkaSubject(broker)
    await subject.backend.connect()
    await healthy(subject.backend)
    yield subject
    await subject.backend.disconnect()


class TestKafka(Conformance):
    """KafkaBackend keeps the contract."""

"""One broker for all tests of a module, and one behind a relay that breaks connections, for each test that asks."""

from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import pytest

from tests.support.kafka import GivenBroker, Others, one_broker, prefix
from tests.support.proxy import FaultProxy
from tests.support.tansu import TansuServer


class Relayed(NamedTuple):
    """A broker, and the relay that it sends its clients to."""

    broker: TansuServer
    relay: FaultProxy

    @property
    def url(self) -> str:
        """The backend's."""
        return self.broker.url("live.")


@pytest.fixture(scope="module")
def broker(request: pytest.FixtureRequest) -> Iterator[GivenBroker | TansuServer]:
    with one_broker(request.config.getoption("--kafka")) as broker:
        yield broker


@pytest.fixture
def url(broker: GivenBroker | TansuServer) -> str:
    """Return the URL of a backend with topics of its own."""
    return broker.url(prefix())


@pytest.fixture
def others(broker: GivenBroker | TansuServer) -> Others:
    return Others(broker.port, broker.host)


@pytest.fixture
async def relayed() -> AsyncIterator[Relayed]:
    broker = TansuServer()
    async with FaultProxy("127.0.0.1", broker.port) as relay:
        broker.advertised_port = relay.port
        with broker:
            yield Relayed(broker, relay)

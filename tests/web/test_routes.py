"""The routes of a file with many channels."""

import pytest

from app.bus.bus import Bus
from app.bus.memory import MemoryBackend
from app.core.channel import Channel, Registry
from app.core.hub import Hub
from app.web.auth import Authenticator
from app.web.health import ConfigState, Health
from app.web.routes import Edge, Routes

MANY = 2000


@pytest.fixture
def edges() -> dict[int, Edge]:
    """Return what the routes need, by the number of channels."""
    return {count: edge(count) for count in (1, MANY)}


def edge(count: int) -> Edge:
    registry = Registry(tuple(Channel(f"channel-{n}") for n in range(count)), Channel("defaults"))
    bus = Bus(MemoryBackend(registry.history))
    health = Health(bus.health, lambda: ConfigState(hash="", error=None))
    return Edge(registry, Authenticator(()), ("*",), bus, bus, Hub(bus, registry), health, "0")


def test_channels_cost_a_request_nothing(edges: dict[int, Edge]) -> None:
    """Routes are as many for 2000 channels as for one, so that no request searches through the channels."""
    assert len(Routes(edges[MANY]).documented.routes) == len(Routes(edges[1]).documented.routes)


def test_document_of_many_channels(edges: dict[int, Edge]) -> None:
    """OpenAPI document names all of 2000 channels, and is made once."""
    app = Routes(edges[MANY]).documented
    paths = app.openapi()["paths"]
    assert sum(path.startswith("/push/channel-") for path in paths) == MANY
    assert app.openapi()["paths"] is paths

"""The routes of a file with many channels."""

import httpx
import pytest

from app.bus.bus import Bus
from app.bus.memory import MemoryBackend
from app.core.channel import Channel, Registry
from app.core.hub import Hub
from app.core.ports import UNMETERED
from app.web.asyncapi import describe
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
    return Edge(registry, Authenticator(()), ("*",), bus, bus, Hub(bus, registry), health, UNMETERED, None, "0")


def test_channels_cost_a_request_nothing(edges: dict[int, Edge]) -> None:
    """Routes are as many for 2000 channels as for one, so that no request searches through the channels."""
    assert len(Routes(edges[MANY]).documented.routes) == len(Routes(edges[1]).documented.routes)


def test_document_of_many_channels(edges: dict[int, Edge]) -> None:
    """OpenAPI document names all of 2000 channels, and is made once."""
    app = Routes(edges[MANY]).documented
    paths = app.openapi()["paths"]
    assert sum(path.startswith("/push/channel-") for path in paths) == MANY
    assert app.openapi()["paths"] is paths


def test_asyncapi_of_many_channels() -> None:
    """AsyncAPI document names all of 2000 channels, by operations that are all different."""
    channels = tuple(Channel(f"channel-{n}") for n in range(MANY))
    document = describe(channels, "0")
    assert len(document["channels"]) == MANY + 1
    assert sum(operation["action"] == "send" for operation in document["operations"].values()) == 2 * MANY + 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["/lebowski", "/lebowski/history", "/chat.a/history", "/asyncapi.json"])
def test_what_is_only_read_takes_nothing(http: httpx.Client, method: str, path: str) -> None:
    """Server says of what is only read that it takes GET and HEAD, not that it is unknown."""
    answer = http.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"

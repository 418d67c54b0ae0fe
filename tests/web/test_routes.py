"""The routes of a file with many channels."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from app.access.auth_settings import AuthSettings
from app.bus.bus import Bus
from app.bus.memory import MemoryBackend
from app.core.channel import Channel, Registry
from app.core.delivery.hub import Hub
from app.core.ports import UNMETERED
from app.core.rights.policy import Access
from app.web.documents.asyncapi import describe
from app.web.documents.lazy_document import Document
from app.web.edge.access import AccessLog
from app.web.edge.auth import Authenticator
from app.web.operate.health import ConfigState, Health
from app.web.routes import Edge, Routes
from app.web.subscribe.reads import StreamHead

MANY = 2000
HELD_AT_MOST = 0.05  # seconds of the loop's own work: no other's, however busy the machine is


@pytest.fixture
def edges() -> dict[int, Edge]:
    """Return what the routes need, by the number of channels."""
    return {count: edge(count) for count in (1, MANY)}


def edge(count: int) -> Edge:
    registry = Registry(tuple(Channel(f"channel-{n}") for n in range(count)), Channel("defaults"))
    bus = Bus(MemoryBackend(registry.history))
    health = Health(bus.health, lambda: ConfigState(hash="", error=None))
    return Edge(
        registry,
        Authenticator(AuthSettings(), operators=Access.ANYONE),
        bus,
        bus,
        Hub(bus, registry),
        health,
        UNMETERED,
        None,
        "0",
    )


def test_channels_cost_a_request_nothing(edges: dict[int, Edge]) -> None:
    """Routes are as many for 2000 channels as for one, so that no request searches through the channels."""
    assert len(Routes(edges[MANY]).pages.routes) == len(Routes(edges[1]).pages.routes)


def test_openapi_names_all_of_many_channels(edges: dict[int, Edge]) -> None:
    """OpenAPI document names all of 2000 channels, and is made once."""
    app = Routes(edges[MANY]).pages
    paths = app.openapi()["paths"]
    assert sum(path.startswith("/push/channel-") for path in paths) == MANY
    assert app.openapi()["paths"] is paths


def test_asyncapi_names_all_of_many_channels() -> None:
    """AsyncAPI document names all of 2000 channels, by operations that are all different."""
    channels = tuple(Channel(f"channel-{n}") for n in range(MANY))
    document = describe(channels, "0")
    assert len(document["channels"]) == MANY + 1
    assert sum(operation["action"] == "send" for operation in document["operations"].values()) == 2 * MANY + 1


def test_a_stream_that_only_the_routes_know_is_left_to_asgi(edges: dict[int, Edge]) -> None:
    """Stream of a channel that a reload declares is not begun past ASGI before the hub knows the channel, too."""
    reads, cors = Routes(replace(edges[MANY], hub=edges[1].hub)).streams
    head = StreamHead.of("/channel-7", [(b"host", b"abide"), (b"accept", b"text/event-stream")])
    assert head is not None
    assert reads.admit(head, b"", None, None, None, cors) is None


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("path", ["/openapi.json", "/asyncapi.json", "/channels"])
async def test_what_tells_of_many_channels_holds_nobody_up(edges: dict[int, Edge], path: str) -> None:
    """Loop has next to nothing to do with documents of 2000 channels, however often they are asked for."""
    transport = httpx.ASGITransport(AccessLog(Routes(edges[MANY])))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        begun = time.thread_time()
        answers = await asyncio.gather(*(client.get(path) for _ in range(3)))
        taken = time.thread_time() - begun
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert f"channel-{MANY - 1}" in answers[0].text
    assert taken < HELD_AT_MOST


async def test_a_document_that_could_not_be_made_is_made_again() -> None:
    """Document that failed to be made fails who asked, and is made anew for who asks next; then it is kept."""
    failures = iter([ValueError("once")])

    def describe(root_path: str) -> dict[str, Any]:
        for failure in failures:
            raise failure
        return {"a": {"b": root_path}, "c": [2]}

    document, request = Document(describe), Request({"type": "http", "root_path": "/r"})
    with pytest.raises(ValueError, match="once"):
        await document.answer(request)
    assert [bytes((await document.answer(request)).body) for _ in range(2)] == [b'{"a":{"b":"/r"},"c":[2]}'] * 2


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["/lebowski", "/lebowski/history", "/chat.a/history", "/asyncapi.json"])
def test_what_is_only_read_takes_nothing(http: httpx.Client, method: str, path: str) -> None:
    """Server says of what is only read that it takes GET and HEAD, not that it is unknown."""
    answer = http.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"

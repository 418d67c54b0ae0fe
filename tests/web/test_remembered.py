"""What is remembered of what clients send is bounded, whatever they send."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable

import pytest

from app.access.auth_settings import AuthSettings
from app.bus.bus import Bus
from app.bus.memory.backend import MemoryBackend
from app.core.channel import Channel, Registry
from app.core.delivery.hub import Hub
from app.core.errors import UnsupportedTypeError
from app.core.ports import UNMETERED
from app.core.rights.policy import ANYONE, Access, Policy
from app.server.http.forwarded import TrustedProxies
from app.web.edge.auth import Authenticator
from app.web.operate.health import ConfigState, Health
from app.web.publish import body
from app.web.publish.push_head import PushHead
from app.web.routes import Edge, Routes
from app.web.subscribe.socket_head import SocketHead


def grows_by(work: Callable[[int], object], *, times: int) -> int:
    """Return how many bytes are kept of work that was done so often; what it kept the first time does not count."""
    work(0)
    tracemalloc.start()
    for number in range(1, times):
        work(number)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held


def an_edge() -> Edge:
    """Return what the routes need, with a channel for all publishers and one for no subscriber."""
    open_to_all, sealed = Channel("open", publish=ANYONE), Channel("sealed", subscribe=Policy((Access.NOBODY,)))
    registry = Registry((open_to_all, sealed), Channel("defaults"))
    bus = Bus(MemoryBackend(registry.history))
    health = Health(bus.health, lambda: ConfigState(hash="", error=None))
    return Edge(registry, Authenticator(AuthSettings()), bus, bus, Hub(bus, registry), health, UNMETERED, None, "0")


def test_remembered_names_of_a_family_are_bounded() -> None:
    """Registry remembers what 30,000 names stand for, and forgets the oldest of more: twice as many take no more."""

    def size_of(names: int) -> int:
        registry = Registry((Channel("chat.{room}"),), Channel("defaults"))
        return grows_by(lambda number: registry.get(f"chat.{number}"), times=names)

    assert size_of(120_000) < 1.1 * size_of(60_000) < 8_000_000


def test_long_media_types_are_refused_and_forgotten() -> None:
    """Media type of thousands of characters is refused, and none of it is kept."""

    def ask(number: int) -> None:
        with pytest.raises(UnsupportedTypeError):
            body.media_type({"content-type": f"text/{number}" + "x" * 60_000})

    assert grows_by(ask, times=200) < 200_000


def test_long_forwarded_addresses_are_not_remembered() -> None:
    """Server remembers no address of a proxy that is longer than a name can be."""
    proxies = TrustedProxies(("127.0.0.1",))

    def read(number: int) -> None:
        assert proxies.read([(b"x-forwarded-for", b"192.0.2.%d" % number + b"x" * 60_000)]).client is not None

    assert grows_by(read, times=200) < 200_000


def test_callers_with_long_request_heads_are_not_remembered() -> None:
    """Server remembers who sends a push or a handshake only if their headers are short."""
    routes = Routes(an_edge())

    def send(number: int) -> None:
        headers = [(b"content-type", b"application/json"), (b"x-%d" % number, b"x" * 60_000)]
        routes.sockets.admit(SocketHead.of("/sealed", "/sealed", headers, ()), b"", None, None)
        routes.pushes[0](PushHead.of("/push/open", headers), None, b"", None, lambda _: None)

    async def send_all() -> int:
        return grows_by(send, times=50)

    assert asyncio.run(send_all()) < 500_000

"""How many connections there may be, and how many of them may owe a request."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import pytest

from app.core.ports import LIMITS, METER, Limits, Meter
from app.server.http.deadlines import Times
from tests.support.local import LocalServer, wait_for
from tests.support.wire import Wire, request

GET = b"GET / HTTP/1.1\r\nHost: abide\r\n\r\n"
HALF = GET[:-2]


class Application(Meter):
    """Answers ``ok``, has limits, and notes who met one."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.met: list[str] = []

    def limited(self, limit: str) -> None:
        self.met.append(limit)

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            scope["state"].update({LIMITS: lambda: self.limits, METER: self})
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
        else:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})


class Crowd:
    """A server whose limits a test chooses, and connections to it that a test need not close."""

    def __init__(self, stack: contextlib.ExitStack, limits: Limits, proxy: str) -> None:
        self.application = Application(limits)  # type: ignore[abstract] # it is asked nothing else
        options: dict[str, Any] = {"lifespan": "on", "forwarded_allow_ips": proxy, "timeout_keep_alive": 60}
        self.server = stack.enter_context(LocalServer(self.application, **options))
        self._stack = stack

    def connect(self, data: bytes = b"") -> Wire:
        """Connect, and send something."""
        wire = self._stack.enter_context(Wire(self.server.port))
        wire.send(data)
        return wire

    def owe(self, count: int, data: bytes = b"") -> list[Wire]:
        """Open connections that do not send a whole request, one after the other."""
        wires = []
        for _ in range(count):
            known = len(self.server.connections)
            wires.append(self.connect(data))
            wait_for(lambda known=known: len(self.server.connections) > known)  # type: ignore[misc]
        return wires


Start = Callable[..., Crowd]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts a server; peers on this machine are trusted proxies if it says so."""
    with contextlib.ExitStack() as stack:
        yield lambda limits, *, proxied=True: Crowd(stack, limits, "127.0.0.1" if proxied else "192.0.2.1")


def refusal(wire: Wire) -> tuple[bytes, bytes]:
    """Return status and time to wait of a connection that was turned away, which then ends."""
    answer = wire.read_rest()
    assert b"connection: close" in answer
    headers = dict(line.split(b": ", 1) for line in answer.partition(b"\r\n\r\n")[0].splitlines()[1:])
    return answer.split(b" ")[1], headers[b"retry-after"]


@pytest.mark.parametrize("data", [b"", HALF], ids=["nothing", "a part of a head"])
def test_the_oldest_half_open_connection_makes_room(start: Start, data: bytes) -> None:
    """Server turns away the connection that has owed a request longest, and serves one that sends it at once."""
    crowd = start(Limits(handshakes=3))
    first, second, third = crowd.owe(3, data)
    crowd.connect(GET).read_until(b"ok")
    assert refusal(first) == (b"503", b"5")
    assert crowd.application.met == ["handshakes"]
    for wire in (second, third):
        wire.send(GET.removeprefix(data))
        wire.read_until(b"ok")


def test_half_open_connections_of_one_address_are_half_of_all(start: Start) -> None:
    """Server lets one address owe half of the requests, and turns its oldest away with 429; a proxy is no address."""
    crowd = start(Limits(handshakes=4), proxied=False)
    first, second = crowd.owe(2)
    crowd.connect(GET).read_until(b"ok")
    assert refusal(first) == (b"429", b"5")
    second.send(GET)
    second.read_until(b"ok")
    crowd = start(Limits(handshakes=4))
    crowd.owe(4)
    assert crowd.application.met == []


def test_a_later_request_that_is_not_whole_is_owed_too(start: Start) -> None:
    """Server counts a connection whose second request does not end, and none between two requests."""
    crowd = start(Limits(handshakes=2))
    wires = [crowd.connect(GET) for _ in range(6)]
    for wire in wires:
        wire.read_until(b"ok")
    assert crowd.application.met == []
    for wire in wires[:3]:
        wire.send(HALF)
    assert [wire.is_closed_within(10) for wire in wires[:1]] == [True]
    assert b"503" in wires[0].received
    assert crowd.application.met == ["handshakes"]
    wires[5].send(GET)
    wires[5].read_until(b"ok")


def test_connections_of_a_worker_are_bounded(start: Start) -> None:
    """Server has so many connections and so many more for short requests; one more is 503, until one has ended."""
    crowd = start(Limits(connections=1, handshakes=2))
    socket = crowd.connect(request("/"))
    socket.read_head()
    others = [crowd.connect(GET) for _ in range(2)]
    for wire in others:
        wire.read_until(b"ok")
    assert refusal(crowd.connect(GET)) == (b"503", b"5")
    assert refusal(crowd.connect(request("/"))) == (b"503", b"5")
    assert crowd.application.met == ["connections"] * 2
    socket.reset()
    wait_for(lambda: len(crowd.server.connections) == 2)
    crowd.connect(GET).read_until(b"ok")


def test_connections_of_an_address_are_bounded(start: Start) -> None:
    """Server answers 429 to one more connection of an address than it may have; a proxy is no address."""
    crowd = start(Limits(connections_per_address=2), proxied=False)
    first, second = (crowd.connect(GET) for _ in range(2))
    for wire in (first, second):
        wire.read_until(b"ok")
    assert refusal(crowd.connect(GET)) == (b"429", b"5")
    assert crowd.application.met == ["connections_per_address"]
    first.reset()
    wait_for(lambda: len(crowd.server.connections) == 1)
    crowd.connect(GET).read_until(b"ok")
    crowd.application.limits = Limits()
    crowd.connect(GET).read_until(b"ok")
    crowd = start(Limits(connections_per_address=2))
    for _ in range(3):
        crowd.connect(GET).read_until(b"ok")


def test_the_application_says_how_long_a_request_may_take(start: Start) -> None:
    """Server closes a connection whose request does not come within the application's time."""
    crowd = start(Limits(request_time=0.2))
    assert crowd.connect(HALF).is_closed_within(10)
    assert Times().under(Limits(request_time=20, answer_time=7)) == Times(header=10, body=20, whole=20, answer=7)

"""Bugs: each ends the connection that it happens in, with a code, a trace and a number, and no other."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import structlog
from structlog.typing import EventDict
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from app.access.auth_settings import AuthSettings
from app.core.channel import Channel, Registry
from app.core.delivery.encoded_blocks import EncodedBlocks
from app.core.delivery.encodings import V1_FRAMES, Encoding
from app.core.delivery.hub import Hub
from app.core.errors import UnavailableError
from app.core.limits.limiter import Limiter
from app.core.message import Batch, Message, Page, Position, Record
from app.core.ports import Limits, Meter, Reply, Sink
from app.core.rights.policy import ANONYMOUS, ANYONE
from app.web.edge.access import AccessLog
from app.web.edge.auth import Authenticator
from app.web.operate.health import ConfigState, Health
from app.web.routes import Edge, Routes
from app.web.subscribe import sse
from app.web.subscribe.reads import StreamHead
from app.web.subscribe.socket_head import SocketHead
from app.web.subscribe.v1 import V1Socket
from tests.support.local import LocalServer, wait_for
from tests.support.wire import Wire

V1 = [Subprotocol("abide.v1")]


class Tally(Meter):
    """Counts what failed, and what is connected."""

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        self.connections: Counter[str] = Counter()

    def failed(self, kind: str) -> None:
        self.failures[kind] += 1

    def connected(self, kind: str) -> None:
        self.connections[kind] += 1

    def disconnected(self, kind: str) -> None:
        self.connections[kind] -= 1


class Broken:
    """A log of five messages that fails whenever one is to be read or published."""

    def __init__(self) -> None:
        self.sinks: dict[str, Sink] = {}
        self.is_away = False
        """Whether no channel can be followed."""
        self.is_slow = False
        """Whether whoever follows a channel waits for :attr:`answers`."""
        self.answers = asyncio.Event()
        self.asked: list[str] = []
        """The channels that were to be followed, and those that were left."""
        self.left: list[str] = []

    async def follow(self, channel: str, sink: Sink) -> None:
        self.asked.append(channel)
        if self.is_away:
            msg = "the backend is away"
            raise UnavailableError(msg)
        if self.is_slow:
            await self.answers.wait()
        self.sinks[channel] = sink
        sink.start(Position("e", 5))

    async def unfollow(self, channel: str) -> None:
        del self.sinks[channel]
        self.left.append(channel)

    async def read(self, _: str, __: int, limit: int, ___: object) -> Page:
        if limit:
            msg = "a bug of the backend"
            raise RuntimeError(msg)
        return Page(1, 5, (), "e")

    def publish(self, _: list[Record]) -> None:
        msg = "a bug of the bus"
        raise RuntimeError(msg)


class World:
    """A server whose log is broken."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 — uvicorn's
        log: Any = Broken()
        self.log = log
        self.meter = Tally()  # type: ignore[abstract] # what is not counted is not told
        channels = tuple(Channel(name, publish=ANYONE, client_publish=True) for name in ("c", "other"))
        registry = Registry(channels, Channel("defaults"))
        self.hub = Hub(self.log, registry, meter=self.meter)
        health = Health(log, lambda: ConfigState(hash="", error=None))
        self.edge = Edge(registry, Authenticator(AuthSettings()), log, log, self.hub, health, self.meter, None, "0")
        self.server = LocalServer(AccessLog(Routes(self.edge)), **options)

    def connect(self, path: str, *, v1: bool = False) -> ClientConnection:
        return connect(f"ws://127.0.0.1:{self.server.port}{path}", subprotocols=V1 if v1 else None)

    def deliver(self, channel: str) -> None:
        """Deliver message 6 of a channel."""
        batch = Batch(channel, "e", (Message(6, 0, b"6"),))
        self.server.call(self.log.sinks[channel].deliver, batch)


@pytest.fixture
def logged() -> Iterator[list[EventDict]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture(params=[{}, {"ws": "websockets-sansio", "http": "httptools"}], ids=["handed over", "plain ASGI"])
def world(request: pytest.FixtureRequest, logged: list[EventDict]) -> Iterator[World]:  # noqa: ARG001 — before it serves
    world = World(**request.param)
    with world.server:
        yield world


def code_of(socket: ClientConnection) -> int:
    """Return the code that a socket is closed with."""
    with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012 — whatever comes before it
        while True:
            socket.recv(timeout=10)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


def reported(lines: list[EventDict], world: World) -> EventDict:
    """Return what the log says of the one connection that failed, once none is left."""
    wait_for(lambda: set(world.meter.connections.values()) == {0})
    wait_for(lambda: not len(world.hub))
    assert world.meter.failures == {"connection": 1}
    (line,) = [line for line in lines if line["event"] == "connection_failed"]
    return line


@pytest.mark.parametrize("path", ["/c", "/c?since=earliest"])
@pytest.mark.parametrize("v1", [False, True], ids=["plain", "v1"])
def test_a_bug_of_what_a_socket_calls_closes_it(
    world: World,
    logged: list[EventDict],
    path: str,
    v1: bool,  # noqa: FBT001 — a parameter
) -> None:
    """Socket in whose service the bus or the backend fails is closed with 1011, logged with the trace, and counted."""
    with world.connect(path, v1=v1) as socket:
        if path == "/c":
            socket.send('{"type":"publish","id":1,"data":1}' if v1 else "1")
        assert code_of(socket) == 1011
    line = reported(logged, world)
    assert line["path"] == "/c"
    assert "bug of the" in str(line["exc_info"])


class Forgetful(Tally):
    """Meter with a bug."""

    def resumed(self, *, complete: bool) -> None:  # noqa: ARG002 — a port's signature
        msg = "a bug of the meter"
        raise RuntimeError(msg)


async def forgetful_routes(meter: Meter, limiter: Limiter) -> Routes:
    """Return routes whose channel `c` is followed, and where whoever resumes meets the bug."""
    world = World()
    hub = Hub(world.log, world.hub.registry, meter=meter)
    await hub.subscribe("c", ANONYMOUS, V1_FRAMES)
    return Routes(replace(world.edge, hub=hub, limiter=limiter))


async def test_a_bug_of_a_handshake_past_asgi_gives_its_place_back(logged: list[EventDict]) -> None:
    """Handshake that meets a bug is answered with 500, logged with the trace, and leaves its place to the next one."""
    meter, limiter = Forgetful(), Limiter(Limits(connections=1))  # type: ignore[abstract] # what is not counted is not told
    sockets = (await forgetful_routes(meter, limiter)).sockets
    for _ in range(2):
        reply = sockets.admit(SocketHead.of("/c", "/c", (), ()), b"since=e:5", None, None)
        assert isinstance(reply, Reply)
        assert reply.status == 500
        assert b"a bug" not in reply.body
    assert limiter.places.has_room(None)
    assert meter.failures == {"connection": 2}
    assert [line["event"] for line in logged] == ["connection_failed", "connection"] * 2


async def test_a_stream_past_asgi_that_meets_a_bug_is_left_to_asgi() -> None:
    """Request for an event stream that meets a bug goes to ASGI, which reports it, and takes no place before."""
    limiter = Limiter(Limits(connections=1))
    meter = Forgetful()  # type: ignore[abstract] # what is not counted is not told
    reads, cors = (await forgetful_routes(meter, limiter)).streams
    head = StreamHead.of("/c", [(b"host", b"here"), (b"accept", b"text/event-stream")])
    assert head is not None
    assert reads.admit(head, b"since=e:5", None, None, None, cors) is None
    assert limiter.places.has_room(None)


def test_a_bug_of_one_subscription_closes_its_connection(world: World, logged: list[EventDict]) -> None:
    """Session on /ws is closed with 1011 when one of its subscriptions fails, and another session is not."""
    with world.connect("/ws", v1=True) as socket, world.connect("/other") as other:
        socket.send('{"type":"subscribe","channel":"other"}')
        socket.send('{"type":"subscribe","channel":"c","since":"earliest"}')
        assert code_of(socket) == 1011
        world.deliver("other")
        assert other.recv(timeout=10) == "6"
    reported(logged, world)


def test_a_bug_ends_a_stream(world: World, logged: list[EventDict]) -> None:
    """Stream whose log fails says so, and ends as a response ends."""
    with Wire(world.server.port) as wire:
        wire.send(b"GET /c?since=earliest HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
        answer = wire.read_until(b"0\r\n\r\n")
        assert b'"code":1011' in answer
        assert b"bug" not in answer
    line = reported(logged, world)
    assert "a bug of the backend" in str(line["exc_info"])


STREAM = b"GET /c HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"


def test_a_stream_waits_for_the_backend(world: World) -> None:
    """Stream that is asked for while the backend is away is answered at once, and begins when the backend is back."""
    world.log.is_away = True
    with Wire(world.server.port) as wire:
        wire.send(STREAM)
        answer = wire.read_until(b": the backend is away\n\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"retry: 2000\n\n" in answer
        assert b"id:" not in answer
        wait_for(lambda: len(world.log.asked) > 1)
        world.log.is_away = False
        wire.read_until(b"id: e:5\n\n\r\n")
        world.deliver("c")
        wire.read_until(b"id: e:6\ndata: 6\n\n\r\n")
    wait_for(lambda: set(world.meter.connections.values()) == {0})
    wait_for(lambda: not len(world.hub))


def test_a_stream_waits_for_a_while(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stream that waits for the backend in vain ends as a response ends, and its reader may come back."""
    monkeypatch.setattr(sse, "LONGEST_WAIT", 0.2)
    world.log.is_away = True
    with Wire(world.server.port) as wire:
        wire.send(STREAM)
        assert b"id:" not in wire.read_until(b"\r\n0\r\n\r\n")
    wait_for(lambda: set(world.meter.connections.values()) == {0})


def test_a_stream_that_waits_ends_with_its_channel_or_its_reader(world: World) -> None:
    """Stream that waits for the backend is told that its channel is gone, and asks no more when its reader left."""
    world.log.is_away = True
    with Wire(world.server.port) as staying, Wire(world.server.port) as leaving:
        for wire in (staying, leaving):
            wire.send(STREAM)
            wire.read_until(b": the backend is away\n\n\r\n")
        leaving.reset()
        wait_for(lambda: world.meter.connections["sse"] == 1)
        world.server.run(world.hub.apply(Registry((), Channel("defaults"))))
        assert b'"code":4404' in staying.read_until(b"0\r\n\r\n")
    wait_for(lambda: world.meter.connections["sse"] == 0)
    assert not world.meter.failures


def test_a_stream_waits_though_a_bug_keeps_it_from_beginning(world: World, logged: list[EventDict]) -> None:
    """Stream whose subscription a bug fails waits, too: it is reported, and the browser does not give up."""
    world.log.follow = None
    with Wire(world.server.port) as wire:
        wire.send(STREAM)
        wire.read_until(b": the server failed; its log says why\n\n\r\n")
        del world.log.follow
        wire.read_until(b"id: e:5\n\n\r\n")
    assert world.meter.failures["connection"] >= 1
    assert any(line["event"] == "connection_failed" for line in logged)


@pytest.mark.parametrize("method", ["stall", "go_on", "release"])
def test_a_bug_of_a_callback_closes_its_socket(
    world: World, logged: list[EventDict], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Socket whose own code fails when the server tells it something is closed, and given back."""

    def fail(*_: object) -> None:
        msg = "a bug of the session"
        raise RuntimeError(msg)

    sessions: list[V1Socket] = []
    begin = V1Socket.begin

    def note(session: V1Socket, *args: Any) -> None:  # noqa: ANN401 — as begin takes them
        sessions.append(session)
        begin(session, *args)

    monkeypatch.setattr(V1Socket, "begin", note)
    with world.connect("/ws", v1=True) as socket:
        (session,) = wait_for(lambda: sessions)
        monkeypatch.setattr(V1Socket, method, fail)
        if method == "release":
            socket.close()
        else:
            world.server.call({"stall": session.full, "go_on": session.writable}[method])
            assert code_of(socket) == 1011
    line = reported(logged, world)
    assert "a bug of the session" in str(line["exc_info"])


def test_a_bug_of_a_delivery_ends_its_subscriptions(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Subscribers that could not be sent a message are closed, not left without it; those of other channels stay."""
    encode = Encoding.__call__

    def fail(encoding: Encoding, channel: str, epoch: str, messages: Sequence[Message]) -> bytes:
        if channel == "c":
            msg = "a bug of the encoding"
            raise RuntimeError(msg)
        return encode(encoding, channel, epoch, messages)

    with world.connect("/c") as one, world.connect("/c", v1=True) as two, world.connect("/other") as other:
        two.recv(timeout=10)
        monkeypatch.setattr(Encoding, "__call__", fail)
        world.deliver("c")
        assert [code_of(one), code_of(two)] == [1011, 1011]
        world.deliver("other")
        assert other.recv(timeout=10) == "6"
    assert world.meter.failures["delivery"] == 1


def test_a_bug_of_a_request_is_counted(world: World) -> None:
    """Request that fails is answered 500, and counted."""
    for head in (
        b"POST /push/c HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 1\r\n",
        b"GET /c/history HTTP/1.1\r\n",
    ):
        with Wire(world.server.port) as wire:
            wire.send(head + b"Host: x\r\nConnection: close\r\n\r\n" + b"1" * (b"POST" in head))
            assert wire.read_head().startswith(b"HTTP/1.1 500 ")
    assert world.meter.failures == {"request": 2}


def test_a_subscription_that_fails_as_it_is_sent_ends(
    world: World, logged: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Subscription that fails while it catches up ends its connection."""
    encode = EncodedBlocks.encode

    def fail(*_: object) -> None:
        msg = "a bug of the subscription"
        raise RuntimeError(msg)

    with world.connect("/c") as first:
        world.deliver("c")
        assert first.recv(timeout=10) == "6"
        monkeypatch.setattr(EncodedBlocks, "encode", fail)
        with world.connect("/c?last=1") as late:
            assert code_of(late) == 1011
        monkeypatch.setattr(EncodedBlocks, "encode", encode)
    reported(logged, world)


def test_a_subscription_that_comes_after_its_connection_has_ended_is_given_back() -> None:
    """Channel that was asked for by a connection that ended meanwhile is left when the backend has answered."""
    world = World()
    log = world.log
    log.is_slow = True
    with world.server, world.connect("/ws", v1=True) as v1:
        v1.send('{"type": "subscribe", "id": 1, "channel": "c"}')
        wait_for(lambda: log.asked)
        for connection in world.server.connections:
            world.server.call(connection.shutdown)
        wait_for(lambda: world.meter.connections["websocket"] == 0)
        world.server.call(log.answers.set)
        wait_for(lambda: log.left == ["c"])
        assert world.server.call(lambda: len(world.hub)) == 0

"""What one peer of a WebSocket can make the server hold or do, and that its own bugs end one connection at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from app.core.limits.intake import SMALL, BoundedIntake
from app.core.ports import INTAKE, LIMITS, METER, Limits, Meter
from app.server.lasting.websocket import WebSocketProtocol
from tests.support.local import Detached, LocalServer, Recorder, stall, wait_for
from tests.support.wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Wire, close, frame


class Noting(Meter):
    """Notes who met a bound, and what failed."""

    def __init__(self) -> None:
        self.limits: list[str] = []
        self.failures: list[str] = []

    def limited(self, limit: str) -> None:
        self.limits.append(limit)

    def failed(self, kind: str) -> None:
        self.failures.append(kind)


class Application(Detached):
    """Hands its connections over, and has a bound and a meter."""

    def __init__(self, *, total: int = 2**30, limits: Limits | None = None) -> None:
        super().__init__()
        self.limits = limits or Limits(frames=2**30)
        self.intake = BoundedIntake(total * 4 // 3)
        self.meter = Noting()  # type: ignore[abstract] # it is asked nothing else

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 — ASGI's
        if scope["type"] != "lifespan":
            await super().__call__(scope, receive, send)
            return
        scope["state"].update({INTAKE: self.intake, LIMITS: lambda: self.limits, METER: self.meter})
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})


@pytest.fixture
def application() -> Application:
    """Make the application with a bound of one megabyte."""
    return Application(total=1024 * 1024)


@pytest.fixture
def local(application: Application) -> Iterator[LocalServer]:
    """Serve it."""
    with LocalServer(application, lifespan="on", ws_ping_interval=None, ws_ping_timeout=None) as server:
        yield server


def test_one_turn_handles_a_bounded_number_of_frames(application: Application, local: LocalServer) -> None:
    """Server gives others their turn between the frames of a peer that sends thousands at once, and loses none."""
    wire, peer = application.open(local)
    turns: list[int] = []

    async def watch() -> None:
        while len(peer.messages) < 10_000:
            turns.append(len(peer.messages))
            await asyncio.sleep(0)

    watching = asyncio.run_coroutine_threadsafe(watch(), local.server.servers[0].get_loop())
    with wire:
        wire.send(b"".join(frame(TEXT, b"%d" % number) for number in range(10_000)))
        watching.result(10)
    assert [int(data) for data, _ in peer.messages] == list(range(10_000))
    steps = [later - earlier for earlier, later in pairwise(turns)]
    assert max(steps) <= 2 * WebSocketProtocol.frames_at_once  # one turn may end with one read, and begin with another


@pytest.mark.parametrize(
    "kind", [frame(PING, b"x"), frame(TEXT, b"x"), frame(PONG)], ids=["pings", "texts", "pongs that nobody asked for"]
)
def test_frames_of_a_second_are_bounded(kind: bytes) -> None:
    """Server closes with 1008 a connection that sends more frames than it may in a second; the next may send anew."""
    application = Application(limits=Limits(frames=50))
    with LocalServer(application, lifespan="on", ws_ping_interval=None, ws_ping_timeout=None) as local:
        wire, peer = application.open(local)
        with wire:
            wire.send(kind * 49 + frame(BINARY, b"end"))
            wait_for(lambda: (b"end", False) in peer.messages)
            wire.send(kind * 100)
            wait_for(lambda: peer.codes)
        assert peer.codes == [1008]
        assert application.meter.limits == ["frames"]
        wire, peer = application.open(local)
        with wire:
            wire.send(frame(TEXT, b"x"))
            wait_for(lambda: peer.messages)


def test_frames_in_pace_go_on_for_ever() -> None:
    """Server takes any number of frames that come no faster than they may."""
    application = Application(limits=Limits(frames=100))
    with LocalServer(application, lifespan="on", ws_ping_interval=None, ws_ping_timeout=None) as local:
        wire, peer = application.open(local)
        with wire:
            for number in range(12):
                wire.send(frame(TEXT, b"%d" % number) * 10)
                wait_for(lambda expected=(number + 1) * 10: len(peer.messages) == expected)  # type: ignore[misc]
                time.sleep(0.1)  # in which 10 may come
    assert application.meter.limits == []


def test_empty_fragments_are_bounded_like_frames(application: Application, local: LocalServer) -> None:
    """Server reads a message of thousands of empty fragments in many turns, and answers a ping behind it."""
    wire, peer = application.open(local)
    with wire:
        fragments = frame(BINARY, fin=False) + frame(CONTINUATION, fin=False) * 20_000 + frame(CONTINUATION)
        wire.send(fragments + frame(PING, b"x"))
        assert wire.read_frame() == (PONG, b"x")
        assert peer.messages == [(b"", False)]


def test_pings_are_answered_together(application: Application, local: LocalServer) -> None:
    """Server answers each of many pings, in their order."""
    wire, _ = application.open(local)
    with wire:
        wire.send(b"".join(frame(PING, b"%d" % number) for number in range(1000)))
        assert [wire.read_frame() for _ in range(1000)] == [(PONG, b"%d" % number) for number in range(1000)]


def test_a_message_that_its_peer_does_not_take_is_refused_at_its_first_bytes(
    application: Application, local: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Server closes with 1009 when a frame's header says that it is larger than what its peer takes."""
    monkeypatch.setattr(Recorder, "max_size", lambda _: 1000)
    wire, _ = application.open(local)
    with wire:
        wire.send(frame(TEXT, b"x" * 1001)[:8])
        assert wire.read_close() == 1009
    assert application.meter.limits == ["frame_size"]


def test_unfinished_messages_of_all_are_bounded_together(application: Application, local: LocalServer) -> None:
    """Server closes with 1013 whose large message finds no room, serves small ones, and gives the room back."""
    pairs = [application.open(local) for _ in range(4)]
    for wire, _ in pairs[:3]:
        wire.send(frame(BINARY, bytes(512 * 1024))[:-1])
    wait_for(lambda: any(wire.is_closed_within(0.05) for wire, _ in pairs[:3]))
    small, peer = pairs[3]
    small.send(frame(BINARY, bytes(SMALL))[:-1])
    small.send(frame(BINARY, bytes(SMALL))[-1:])
    wait_for(lambda: peer.messages)
    for wire, _ in pairs:
        wire.reset()
    wait_for(lambda: not local.connections)
    assert application.intake.held == 0
    assert set(application.meter.limits) == {"frames_held"}


def talk(wire: Wire, peer: Recorder) -> None:
    """Send a pong again and again, until the peer is told that the connection is closed."""
    while not peer.codes:
        with contextlib.suppress(OSError):
            wire.send(frame(PONG))
        time.sleep(0.01)


def test_a_peer_that_talks_and_does_not_read_is_given_up(application: Application) -> None:
    """Server cuts a connection whose peer lets nothing leave for as long as a silent one is waited for."""
    with LocalServer(application, lifespan="on", ws_ping_interval=0.2, ws_ping_timeout=0.2) as local:
        wire, peer = application.open(local, receive_buffer=4096)
        with wire:
            stall(local, peer, bytes(8192))
            talking = threading.Thread(target=talk, args=(wire, peer))
            talking.start()
            wait_for(lambda: peer.codes)
            talking.join()
    assert peer.codes == [1006]
    assert application.meter.limits == ["answer_time"]


def test_a_message_that_only_dribbles_is_late() -> None:
    """Server closes with 1008 a connection whose message moves, and is pinged about, but does not end in time."""
    application = Application(limits=Limits(request_time=0.2))
    with LocalServer(application, lifespan="on", ws_ping_interval=0.2, ws_ping_timeout=0.2) as local:
        wire, peer = application.open(local)
        with wire:
            wire.send(frame(TEXT, b"x", fin=False))
            while not peer.codes:
                with contextlib.suppress(OSError):
                    wire.send(frame(PING) + frame(CONTINUATION, b"x", fin=False))
                time.sleep(0.01)
    assert peer.codes == [1008]
    assert application.meter.limits == ["message_time"]


@pytest.mark.parametrize("method", ["received", "full", "writable"])
def test_a_peer_that_fails_ends_its_connection(
    application: Application, local: LocalServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    method: str,
) -> None:  # fmt: skip
    """Server closes with 1011 a connection whose peer raises, logs the trace, and counts it; others go on."""
    caplog.set_level(logging.ERROR)
    wire, peer = application.open(local, receive_buffer=None if method == "received" else 4096)
    other, _ = application.open(local)

    def fail(*_: object, **__: object) -> None:
        msg = "a bug"
        raise RuntimeError(msg)

    monkeypatch.setattr(peer, method, fail)
    with wire, other:
        if method == "received":
            wire.send(frame(TEXT, b"x"))
            assert wire.read_frame() == (CLOSE, b"\x03\xf3the server failed; its log says why")
            wire.send(close(1011))
        else:
            stall(local, peer, bytes(8192))
            wire.is_closed_within(0.5)
        wait_for(lambda: peer.codes)
        other.send(frame(PING, b"x"))
        assert other.read_frame() == (PONG, b"x")
    assert peer.codes == [1011]
    assert application.meter.failures == ["connection"]
    assert "RuntimeError: a bug" in caplog.text

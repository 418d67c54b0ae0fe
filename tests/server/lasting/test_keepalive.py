"""The sweep: who is pinged, who is dropped, and when there is none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from uvicorn import Config

from app.core.ports import Heartbeat
from app.server.http.connection import HttpProtocol
from app.server.http.server_state import ServerState
from app.server.lasting.sweep import Sweep, Swept
from app.server.worker import AbideWorker
from app.wire.frames import frame as frame_of
from tests.support.local import Detached, LocalServer, wait_for
from tests.support.wire import PING, PONG, TEXT, Wire, frame

INTERVAL = 0.4
"""Seconds from hearing a peer to a ping, and from that to giving it up."""

app = Detached()


@pytest.fixture(scope="module")
def local() -> Iterator[LocalServer]:
    """Serve with little patience."""
    with LocalServer(app, ws_ping_interval=INTERVAL, ws_ping_timeout=INTERVAL) as server:
        yield server


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition with the event loop running."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("the condition was not met in time")


class Connection(Swept):
    """Notes when it was looked at."""

    __slots__ = ("ticks",)

    def __init__(self) -> None:
        self.ticks: list[int] = []

    def look(self, tick: int) -> None:
        self.ticks.append(tick)


class Broken(Connection):
    """Fails."""

    __slots__ = ()

    def look(self, tick: int) -> None:
        super().look(tick)
        raise ZeroDivisionError


def test_a_peer_that_answers_pings_stays(local: LocalServer) -> None:
    """Peer that answers pings is pinged again and again, and stays."""
    wire, peer = app.open(local)
    with wire:
        begun = time.monotonic()
        for _ in range(4):
            assert wire.read_frame() == (PING, b"")
            wire.send(frame(PONG))
        assert time.monotonic() - begun > 2 * INTERVAL
    assert wait_for(lambda: peer.codes) == [1006]


def test_a_silent_peer_is_given_up_in_its_time(local: LocalServer) -> None:
    """Peer that answers no ping is given up, and not before its time."""
    wire, peer = app.open(local)
    with wire:
        assert wire.read_frame() == (PING, b"")
        pinged = time.monotonic()
        with pytest.raises(ConnectionResetError):
            wire.read_rest()
        assert time.monotonic() - pinged > INTERVAL * 0.9
        assert wait_for(lambda: peer.codes) == [1006]


def test_a_peer_that_talks_is_not_pinged(local: LocalServer) -> None:
    """Peer that sends anything is not pinged."""
    wire, _ = app.open(local)
    with wire:
        until = time.monotonic() + 4 * INTERVAL
        while time.monotonic() < until:
            wire.send(frame(TEXT, b"x"))
            assert not wire.is_closed_within(INTERVAL / 8)
        assert wire.received == b""


def test_heartbeats_and_pings_are_sent_in_each_period() -> None:
    """Peer that is to see heartbeats gets one and a ping in each period, whether it talks or not, paused or not."""
    beating = Detached(Heartbeat(frame_of(TEXT, b"beat"), INTERVAL))
    with LocalServer(beating, ws_ping_interval=INTERVAL, ws_ping_timeout=INTERVAL) as server:
        wire, peer = beating.open(server)
        with wire:
            for number in range(6):
                if number == 3:
                    server.call(peer.writer.pause)
                assert (wire.read_frame(), wire.read_frame()) == ((TEXT, b"beat"), (PING, b""))
                wire.send(frame(PONG) + frame(PING))
                if number < 3:
                    assert wire.read_frame() == (PONG, b"")
        silent, peer = beating.open(server)
        with silent:
            with pytest.raises(ConnectionResetError):
                silent.read_rest()
            assert wait_for(lambda: peer.codes) == [1006]


def test_a_paused_peer_is_not_given_up(local: LocalServer) -> None:
    """Peer that cannot be heard because reading is paused is not given up, and has its time when it is read again."""
    wire, peer = app.open(local)
    with wire:
        local.call(peer.writer.pause)
        assert not wire.is_closed_within(3 * INTERVAL)
        assert wire.received == b""
        local.call(peer.writer.resume)
        assert wire.read_frame() == (PING, b"")


def test_no_peer_is_pinged_without_an_interval() -> None:
    """Server without a ping interval pings nobody."""
    with LocalServer(app, ws_ping_interval=None, ws_ping_timeout=None) as server:
        wire, _ = app.open(server)
        with wire:
            assert not wire.is_closed_within(1.0)
            assert wire.received == b""


async def test_default_times_are_those_of_the_documentation() -> None:
    """Worker's settings ping after 15 to 20 s, and give up 20 s after that; streams after 40 s, too."""
    settings = {name: value for name, value in AbideWorker.CONFIG_KWARGS.items() if name.startswith("ws")}
    config = Config(app, http=HttpProtocol, **settings)
    config.load()
    state = ServerState()
    state.begin(config, {})
    limits = state.links.limits
    assert (limits.ping_at, limits.drop_at) == (4, 8)
    assert state.links.silence == 40
    assert (limits.handshake_late, limits.closing_late) == (3, 3)


def test_the_sweep_has_no_timer_without_connections(local: LocalServer) -> None:
    """Sweep has no timer while there is no WebSocket, and begins again with the next one."""
    wire, _ = app.open(local)
    sweep = local.links.sweep
    wire.socket.close()
    wait_for(lambda: not local.connections)
    wait_for(lambda: not sweep.is_running)
    with Wire.open(local.port) as wire:
        assert wire.read_frame() == (PING, b"")


async def test_the_sweep_leaves_turns_to_others_between_slices() -> None:
    """Sweep looks at every connection once per tick, with turns of the event loop for others between slices."""
    connections: list[Any] = [Connection() for _ in range(2500)] + [object()]
    sweep = Sweep(asyncio.get_running_loop(), connections, 0.05)
    sweep.start()
    sweep.start()
    looked_at: list[int] = []
    while not looked_at or looked_at[-1] < 2500:
        await asyncio.sleep(0)
        looked_at.append(sum(connection.ticks == [1] for connection in connections[:-1]))
    assert {1000, 2000} <= set(looked_at)
    await until(lambda: connections[0].ticks == [1, 2])
    connections.clear()
    await until(lambda: not sweep.is_running)


async def test_the_sweep_goes_on_after_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    """Sweep looks at the other connections, and goes on, after one that fails; the log has its trace."""
    good = Connection()
    connections: list[Swept] = [Broken(), good, Broken()]
    Sweep(asyncio.get_running_loop(), connections, 0.01).start()
    await until(lambda: good.ticks[:2] == [1, 2])
    connections.clear()
    assert caplog.records[0].message == "connection_failed"
    assert "ZeroDivisionError" in caplog.text

"""The handover: when it may be, and what the peer gets that came before it."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.local import Event, Receive, Recorder, Send, serving, wait_for
from tests.support.wire import CLOSE, TEXT, Wire, close, frame, request

ACCEPT = {"type": "websocket.accept"}
HELLO = {"type": "websocket.send", "text": "hello"}


def test_an_exception_after_the_handover_closes_with_1011(caplog: pytest.LogCaptureFixture) -> None:
    """Server closes with 1011 when the application fails although it has handed over."""
    peer = Recorder()

    async def script(scope: Event, _receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        scope["extensions"]["abide.fanout"](peer)
        raise ZeroDivisionError

    with serving(script, scope=True) as server, Wire.open(server.port) as wire:
        assert wire.read_frame() == (CLOSE, b"\x03\xf3")
        assert wait_for(lambda: peer.codes) == [1011]
    assert len([record for record in caplog.records if record.exc_info]) == 1


@pytest.mark.parametrize("times", [0, 2], ids=["before accept", "twice"])
def test_a_handover_out_of_order_raises_a_runtime_error(times: int) -> None:
    """Application that hands over before it accepts, or twice, is told so by a RuntimeError."""
    raised: list[RuntimeError] = []

    async def script(scope: Event, _receive: Receive, send: Send) -> None:
        if times:
            await send(ACCEPT)
        try:
            for _ in range(times or 1):
                scope["extensions"]["abide.fanout"](Recorder())
        except RuntimeError as error:
            raised.append(error)

    with serving(script, scope=True) as server, Wire(server.port) as wire:
        wire.send(request("/") + close(1000))
        wire.read_rest()
    assert len(raised) == 1


def test_sending_after_the_handover_raises_a_runtime_error() -> None:
    """Application that sends after it has handed over is told so by a RuntimeError."""
    raised: list[RuntimeError] = []

    async def script(scope: Event, _receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        scope["extensions"]["abide.fanout"](Recorder())
        try:
            await send(HELLO)
        except RuntimeError as error:
            raised.append(error)

    with serving(script, scope=True) as server, Wire.open(server.port) as wire:
        wire.send(close(1000))
        assert wire.read_close() == 1000
    assert len(raised) == 1


@pytest.mark.parametrize("pauses", [False, True])
def test_a_late_handover_keeps_what_came_before_it(*, pauses: bool) -> None:
    """Peer gets what came before the handover, in order, and not while it has paused."""
    peer = Recorder()
    go = asyncio.Event()

    async def script(scope: Event, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await go.wait()
        peer.writer = scope["extensions"]["abide.fanout"](peer)
        if pauses:
            peer.writer.pause()

    with serving(script, scope=True) as server, Wire.open(server.port) as wire:
        wire.send(frame(TEXT, b"first") + frame(TEXT, b"second") + frame(TEXT, b"third"))
        connection = server.connections[0]
        wait_for(lambda: not connection.is_reading)
        server.call(go.set)
        wait_for(lambda: not server.server.server_state.tasks)
        if pauses:
            assert peer.messages == []
            server.call(peer.writer.resume)
        wait_for(lambda: len(peer.messages) == 3)
        assert [data for data, _ in peer.messages] == [b"first", b"second", b"third"]


def test_a_handover_of_a_closed_connection_tells_its_close_code() -> None:
    """Peer that is handed a connection which has ended is told its close code."""
    peer = Recorder()

    async def script(scope: Event, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await receive()
        scope["extensions"]["abide.fanout"](peer).write(frame(TEXT, b"ignored"))

    with serving(script, scope=True) as server, Wire.open(server.port) as wire:
        wire.send(close(4000))
        assert wire.read_close() == 4000
        assert wait_for(lambda: peer.codes) == [4000]


def test_a_handover_after_a_message_gives_what_came_after_it() -> None:
    """Peer gets what came after the messages that the application has received."""
    peer = Recorder()

    async def script(scope: Event, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await receive()
        scope["extensions"]["abide.fanout"](peer)

    with serving(script, scope=True) as server, Wire.open(server.port) as wire:
        wire.send(frame(TEXT, b"first") + frame(TEXT, b"second"))
        assert wait_for(lambda: peer.messages) == [(b"second", True)]
        wire.send(frame(TEXT, b"third"))
        wait_for(lambda: len(peer.messages) == 2)

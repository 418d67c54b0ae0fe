"""WebSockets of applications that use what ASGI has: events, flow, their order, and the end."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from tests.support.local import Event, Receive, Send, answer, serving, wait_for
from tests.support.wire import CLOSE, PING, PONG, TEXT, Wire, close, frame

ACCEPT = {"type": "websocket.accept"}
REFUSE = {"type": "websocket.close"}
HELLO = {"type": "websocket.send", "text": "hello"}


def test_an_exception_after_the_accept_closes_with_1011(caplog: pytest.LogCaptureFixture) -> None:
    """Server closes with 1011 when the application fails, and logs one traceback."""

    async def script(_receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        raise ZeroDivisionError

    with serving(script) as server, Wire.open(server.port) as wire:
        assert wire.read_frame() == (CLOSE, b"\x03\xf3")
        wire.send(close(1011))
        assert wire.read_rest() == b""
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_a_return_after_the_accept_closes_with_1000(caplog: pytest.LogCaptureFixture) -> None:
    """Server closes with 1000 when the application returns."""

    async def script(_receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await send(HELLO)

    with serving(script) as server, Wire.open(server.port) as wire:
        assert wire.read_frame() == (TEXT, b"hello")
        assert wire.read_frame() == (CLOSE, b"\x03\xe8")
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.parametrize(
    "events",
    [
        [HELLO],
        [{"type": "websocket.http.response.body", "body": b""}],
        [{"type": "http.response.start", "status": 200}],
        [ACCEPT, ACCEPT],
        [ACCEPT, {"type": "websocket.http.response.start", "status": 404}],
        [ACCEPT, {"type": "websocket.send"}],
        [ACCEPT, REFUSE, HELLO],
        [ACCEPT, REFUSE, REFUSE],
        [REFUSE, ACCEPT],
        [{"type": "websocket.http.response.start", "status": 404}, ACCEPT],
        [{"type": "websocket.http.response.start", "status": 101}],
    ],
    ids=lambda events: " ".join(event["type"].split(".", 1)[1] for event in events),
)
def test_events_out_of_order_raise_a_runtime_error(events: list[Event]) -> None:
    """Application that sends events out of order is told so by a RuntimeError."""
    raised: list[Exception] = []

    async def script(_receive: Receive, send: Send) -> None:
        for event in events[:-1]:
            await send(event)
        try:
            await send(events[-1])
        except RuntimeError as error:
            raised.append(error)

    answer(script)
    assert len(raised) == 1


def test_the_disconnection_is_received_again_and_again() -> None:
    """Application receives the disconnection again and again, and may not send."""
    events: list[Any] = []

    async def script(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        events.extend([await receive(), await receive()])
        try:
            await send(HELLO)
        except OSError as error:
            events.append(error)
            raise

    with serving(script) as server, Wire.open(server.port) as wire:
        wire.send(close(4000, b"bye"))
        assert wire.read_close() == 4000
        wait_for(lambda: len(events) == 3)
    assert events[:2] == [{"type": "websocket.disconnect", "code": 4000, "reason": ""}] * 2


def test_a_cut_link_is_received_as_1006(caplog: pytest.LogCaptureFixture) -> None:
    """Application receives 1006 when the link is cut."""
    events: list[Event] = []

    async def script(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        events.append(await receive())

    with serving(script) as server:
        Wire.open(server.port).reset()
        wait_for(lambda: events)
    assert events[0]["code"] == 1006
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_an_application_waits_in_send_for_a_slow_peer() -> None:
    """Application waits in send while the peer does not read, and goes on when it does."""
    sent: list[int] = []

    async def script(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        for number in range(1000):
            await send({"type": "websocket.send", "bytes": bytes(8192)})
            sent.append(number)

    with serving(script) as server, Wire.open(server.port, receive_buffer=4096) as wire:
        connection = wait_for(lambda: server.connections)[0]
        wait_for(connection.is_full)
        assert len(sent) < 200
        for _ in range(1000):
            assert wire.read_frame() == (2, bytes(8192))
        assert wire.read_frame()[0] == CLOSE


def test_an_application_that_waits_in_send_is_woken_when_the_link_is_cut() -> None:
    """Application that waits in send is woken with an OSError when the link is cut."""
    raised: list[OSError] = []

    async def script(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        try:
            while True:
                await send({"type": "websocket.send", "bytes": bytes(8192)})
        except OSError as error:
            raised.append(error)

    with serving(script) as server:
        wire = Wire.open(server.port, receive_buffer=4096)
        wait_for(wait_for(lambda: server.connections)[0].is_full)
        wire.reset()
        wait_for(lambda: raised)


def test_little_is_read_ahead_of_an_application_that_does_not_receive() -> None:
    """Server reads no more than a little ahead of the application, and answers pings while it works."""
    work = asyncio.Event()
    received: list[int] = []

    async def script(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        while (event := await receive())["type"] == "websocket.receive":
            received.append(len(event["text"]))
            await work.wait()
        await send(REFUSE)

    with serving(script) as server, Wire.open(server.port) as wire:
        wire.send(frame(TEXT, b"x") + frame(PING, b"still there?"))
        assert wire.read_frame() == (PONG, b"still there?")
        wire.send(frame(TEXT, b"x" * 1000) * 300)
        connection = server.connections[0]
        wait_for(lambda: not connection.is_reading)
        assert received == [1]
        server.call(work.set)
        wire.send(close(1000))
        assert wire.read_close() == 1000
        wait_for(lambda: received == [1] + [1000] * 300)


def test_a_stop_is_received_as_1012() -> None:
    """Application receives 1012 when the server stops."""
    codes: list[int] = []

    async def script(receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        codes.append((await receive())["code"])

    with serving(script) as server, Wire.open(server.port) as wire:
        server.server.should_exit = True
        opcode, payload = wire.read_frame()
        assert (opcode, payload[:2]) == (CLOSE, b"\x03\xf4")
        wire.send(close(1012))
        assert wire.read_rest() == b""
    assert codes == [1012]

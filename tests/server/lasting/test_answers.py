"""How applications answer the handshake, and what becomes of those that do not."""

from __future__ import annotations

import asyncio

import pytest

from app.server.lasting.websocket import WebSocketProtocol
from tests.support.local import Event, Receive, Send, answer, serving, wait_for
from tests.support.wire import TEXT, Wire, close, frame, request

ACCEPT = {"type": "websocket.accept"}
REFUSE = {"type": "websocket.close"}


def test_a_close_before_the_accept_is_a_403() -> None:
    """Server turns a close instead of the accept into 403."""

    async def script(_receive: Receive, send: Send) -> None:
        await send(REFUSE)

    refused = answer(script)
    assert refused.startswith(b"HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 9\r\n")
    assert b"\r\ndate: " in refused
    assert refused.endswith(b"\r\n\r\nForbidden")


def test_an_application_may_send_its_own_response_instead() -> None:
    """Server sends the application's own response instead of a WebSocket."""

    async def script(_receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/problem+json"), (b"content-length", b"9"), (b"x-app", b"yes")]
        await send({"type": "websocket.http.response.start", "status": 404, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"{}", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"..."})

    head, _, body = answer(script).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 404 Not Found"
    assert {b"content-type: application/problem+json", b"x-app: yes", b"connection: close"} <= set(lines)
    assert [line for line in lines if line.startswith(b"content-length")] == [b"content-length: 5"]
    assert body == b"{}..."


def test_an_application_that_refused_receives_the_disconnection() -> None:
    """Application that has refused receives the disconnection."""
    events: list[Event] = []

    async def script(receive: Receive, send: Send) -> None:
        await receive()
        await send(REFUSE)
        events.append(await receive())

    answer(script)
    assert events == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}]


def test_an_exception_before_the_accept_is_a_500_and_one_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """Server answers 500 when the application fails, and logs one traceback."""

    async def script(_receive: Receive, _send: Send) -> None:
        raise ZeroDivisionError

    assert answer(script).startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.getMessage() == "Exception in ASGI application"
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_a_return_without_an_answer_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    """Server answers 500 when the application returns without an answer, and says so."""

    async def script(receive: Receive, send: Send) -> None:
        pass

    assert answer(script).startswith(b"HTTP/1.1 500 ")
    assert "without answering" in caplog.text


@pytest.mark.parametrize(
    "accept",
    [
        {"headers": [(b"x-app", b"a\r\nx-other: b")]},
        {"headers": [(b"x app", b"a")]},
        {"subprotocol": "a\r\nb"},
    ],
    ids=["value", "name", "subprotocol"],
)
def test_a_header_that_is_none_is_never_sent(accept: Event, caplog: pytest.LogCaptureFixture) -> None:
    """Server answers 500 rather than send headers that are none."""

    async def script(_receive: Receive, send: Send) -> None:
        await send(ACCEPT | accept)

    assert answer(script).startswith(b"HTTP/1.1 500 ")
    assert "does not allow" in caplog.text


def test_a_late_application_is_cancelled_and_its_peer_refused() -> None:
    """Server refuses with 503 when the application does not answer the handshake in time, and cancels it."""
    ends: list[str] = []

    async def script(_receive: Receive, _send: Send) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    assert answer(script).startswith(b"HTTP/1.1 503 ")
    assert ends == ["cancelled"]


def test_an_application_is_cancelled_when_its_peer_leaves() -> None:
    """Application is cancelled when its peer leaves before the handshake is answered."""
    ends: list[str] = []
    begun: list[bool] = []

    async def script(_receive: Receive, _send: Send) -> None:
        try:
            begun.append(True)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    with serving(script) as server:
        with Wire(server.port) as wire:
            wire.send(request("/"))
            wait_for(lambda: begun)
        wait_for(lambda: ends)
        wait_for(lambda: not server.server.server_state.tasks)
        assert server.connections == []


def test_a_flood_before_the_accept_is_bounded_and_loses_nothing() -> None:
    """Server keeps a bounded part of what comes before the handshake is answered, and loses nothing."""
    accept = asyncio.Event()
    received: list[int] = []

    async def script(receive: Receive, send: Send) -> None:
        await receive()
        await accept.wait()
        await send(ACCEPT)
        while (event := await receive())["type"] == "websocket.receive":
            received.append(len(event["text"]))
        await send(REFUSE)

    with serving(script) as server, Wire(server.port) as wire:
        wire.send(request("/") + frame(TEXT, b"x" * 1000) * 300)
        # Until the handshake is read, the connection is an HTTP one.
        connection = wait_for(lambda: [c for c in server.connections if isinstance(c, WebSocketProtocol)])[0]
        wait_for(lambda: not connection.is_reading)
        server.call(accept.set)
        wire.read_head()
        wire.send(close(1000))
        assert wire.read_close() == 1000
    assert received == [1000] * 300


def test_a_stop_answers_503_to_a_handshake_under_way() -> None:
    """Server answers 503 to a handshake that is under way when it stops."""

    async def script(receive: Receive, _send: Send) -> None:
        await receive()
        await receive()

    with serving(script) as server, Wire(server.port) as wire:
        wire.send(request("/"))
        wait_for(lambda: server.connections)
        server.server.should_exit = True
        assert wire.read_head().startswith(b"HTTP/1.1 503 ")

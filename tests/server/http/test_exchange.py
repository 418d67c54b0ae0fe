"""Requests and their answers: what an application sees of the one, and a peer of the other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from app.core.ports import Heartbeat, Peer, Writer
from app.server.http.connection import HttpProtocol
from app.server.http.exchange import Exchange
from tests.support.local import Event, LocalServer, Receive, Script, Send, wait_for
from tests.support.wire import Wire

GET = b"GET / HTTP/1.1\r\nHost: abide\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: abide\r\nConnection: close\r\n\r\n"


def start(*headers: tuple[bytes, bytes], status: int = 200) -> Event:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes = b"", *, more: bool = False) -> Event:
    return {"type": "http.response.body", "body": data, "more_body": more}


def length(size: int) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % size


@contextmanager
def speaking(script: Script) -> Iterator[Wire]:
    """Connect to a server whose application runs the script for every request."""

    async def app(_scope: Event, receive: Receive, send: Send) -> None:
        await script(receive, send)

    with LocalServer(app) as server, Wire(server.port) as wire:
        yield wire


def answers(script: Script, request: bytes = LAST) -> bytes:
    """Return all that is answered to requests of which the last closes the connection."""
    with speaking(script) as wire:
        wire.send(request)
        return wire.read_rest()


def sending(*events: Event) -> Script:
    async def script(_receive: Receive, send: Send) -> None:
        for event in events:
            await send(event)

    return script


class Written:
    """A connection that keeps what is written, piece by piece."""

    default_headers: Sequence[tuple[bytes, bytes]] = ()

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.pieces.append(data)

    def is_full(self) -> bool:
        return False

    def read_on(self) -> None: ...

    def close(self) -> None: ...

    def answered(self) -> None: ...

    def hand_over(self, head: bytes, peer: Peer, heartbeat: Heartbeat) -> Writer:
        raise NotImplementedError


async def test_a_short_answer_leaves_in_one_piece() -> None:
    """Head and body of a short answer leave in one piece."""
    connection = Written()
    exchange = Exchange(connection, is_head=False, is_1_0=False, keep_alive=True, awaits_continue=False)
    await exchange.send(start(length(2)))
    assert connection.pieces == []
    await exchange.send(body(b"ok"))
    assert connection.pieces == [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"]


async def test_a_whole_body_is_received_in_one_event() -> None:
    """Application receives in one event the body that has come as a whole, and nothing is said in between."""
    connection = Written()
    exchange = Exchange(connection, is_head=False, is_1_0=False, keep_alive=True, awaits_continue=False)
    exchange.feed(b"one")
    exchange.feed(b"two")
    exchange.end()
    assert await exchange.receive() == {"type": "http.request", "body": b"onetwo", "more_body": False}
    assert connection.pieces == []


def test_pipelined_requests_are_answered_in_order() -> None:
    """Server answers pipelined requests in the order in which they came, however long each takes."""
    delays = iter([0.05, 0.0, 0.02])
    numbers = iter(b"abc")

    async def script(receive: Receive, send: Send) -> None:
        letter = bytes([next(numbers)])
        await asyncio.sleep(next(delays))
        event = await receive()
        await send(start(length(3)))
        await send(body(b"%b:%b" % (letter, event["body"])))

    post = b"POST / HTTP/1.1\r\nHost: abide\r\nContent-Length: 1\r\n\r\n"
    received = answers(script, post + b"1" + post + b"2" + LAST.replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\n3"))
    assert [part[:3] for part in received.split(b"\r\n\r\n")[1:]] == [b"a:1", b"b:2", b"c:3"]


def test_an_answer_to_head_has_the_length_and_no_body() -> None:
    """Answer to HEAD has the length of the body and not the body."""
    head, _, rest = answers(sending(start(length(5)), body(b"hello")), LAST.replace(b"GET", b"HEAD")).partition(
        b"\r\n\r\n"
    )
    assert b"\r\ncontent-length: 5" in head
    assert rest == b""


def test_an_answer_of_unknown_length_is_sent_in_chunks() -> None:
    """Answer of unknown length is sent in chunks, and an empty piece is none."""
    received = answers(sending(start(), body(b"one", more=True), body(more=True), body(b"three")))
    head, _, chunks = received.partition(b"\r\n\r\n")
    assert b"\r\ntransfer-encoding: chunked" in head
    assert chunks == b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"


def test_the_applications_transfer_encoding_is_left_out() -> None:
    """How a body ends is the server's to say: an application's Transfer-Encoding is left out."""
    received = answers(sending(start(length(2), (b"Transfer-Encoding", b"chunked")), body(b"ok")))
    assert b"chunked" not in received
    assert received.endswith(b"\r\n\r\nok")


def test_an_answer_to_http_1_0_ends_with_the_connection() -> None:
    """Answer to HTTP/1.0 has no chunks and ends with the connection."""
    head, _, rest = answers(
        sending(start(), body(b"one", more=True), body(b"two")), b"GET / HTTP/1.0\r\n\r\n"
    ).partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert b"\r\nconnection: close" in head
    assert rest == b"onetwo"


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_says_nothing_of_one(status: int) -> None:
    """Answer whose status has no body says nothing of one."""
    received = answers(sending(start(status=status), body()))
    assert b"chunked" not in received
    assert received.endswith(b"\r\n\r\n")


def test_a_peer_gets_100_continue_when_the_body_is_wanted() -> None:
    """Peer that waits for 100 Continue gets it when the application wants the body."""

    async def script(receive: Receive, send: Send) -> None:
        event = await receive()
        await send(start(length(1)))
        await send(body(event["body"]))

    with speaking(script) as wire:
        wire.send(b"POST / HTTP/1.1\r\nHost: abide\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
        assert wire.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.send(b"x")
        assert wire.read_until(b"\r\n\r\nx").startswith(b"HTTP/1.1 200 ")


def test_a_peer_gets_only_the_answer_when_the_body_is_not_wanted() -> None:
    """Peer that waits for 100 Continue gets only the answer when the application does not want the body."""
    with speaking(sending(start(length(2), status=413), body(b"no"))) as wire:
        wire.send(b"POST / HTTP/1.1\r\nHost: abide\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
        assert wire.read_until(b"\r\n\r\nno").startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("sent", [GET, b"POST / HTTP/1.1\r\nHost: abide\r\nContent-Length: 9\r\n\r\nhalf"])
def test_the_application_receives_the_disconnection_of_its_peer(sent: bytes) -> None:
    """Application receives the disconnection of a peer that leaves, and may go on sending into the void."""
    events: list[Event] = []
    ends: list[bool] = []

    async def script(receive: Receive, send: Send) -> None:
        while not events or events[-1]["type"] != "http.disconnect":
            events.append(await receive())
        await send(start())
        await send(body(b"too late"))
        ends.append(True)

    with speaking(script) as wire:
        wire.send(sent)
        wait_for(lambda: events)
        wire.reset()
        wait_for(lambda: ends)


def test_a_listener_hears_when_the_answer_has_ended() -> None:
    """Application that listens for the disconnection hears of it when it has answered."""
    events: list[Event] = []

    async def script(receive: Receive, send: Send) -> None:
        await receive()
        listening = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        await send(start(length(0)))
        await send(body())
        events.append(await listening)

    answers(script)
    assert events == [{"type": "http.disconnect"}]


@pytest.mark.parametrize(
    "events",
    [
        [],
        [start()],
        [body(b"without a start")],
        [start(), start()],
        [start(length(1)), body(b"longer")],
        [start(length(9)), body(b"shorter")],
        [start((b"x-app", b"a\r\nx-other: b"))],
        [start((b"x app", b"a"))],
    ],
    ids=["nothing", "no body", "no start", "two starts", "longer", "shorter", "value", "name"],
)
def test_a_faulty_application_is_a_500_and_logged(events: list[Event], caplog: pytest.LogCaptureFixture) -> None:
    """Server answers 500 for an application that goes wrong before anything has left, and logs why."""
    received = answers(sending(*events), GET)
    assert received.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert received.endswith(b"\r\n\r\nInternal Server Error")
    assert b"x-other" not in received
    assert "ASGI application" in caplog.text


def test_an_answer_that_fails_under_way_is_broken_off(caplog: pytest.LogCaptureFixture) -> None:
    """Server breaks an answer off whose application fails in the middle."""
    received = answers(sending(start(), body(b"half", more=True), start()), GET)
    assert received.endswith(b"\r\n\r\n4\r\nhalf\r\n")
    assert "out of order" in caplog.text


def test_the_application_waits_for_a_slow_reader() -> None:
    """Application waits while its peer does not read, and goes on when it does."""
    pieces = 64
    sent: list[int] = []

    async def script(_receive: Receive, send: Send) -> None:
        await send(start(length(pieces << 18)))
        for number in range(pieces):
            await send(body(b"x" * (1 << 18), more=number < pieces - 1))
            sent.append(number)

    async def app(_scope: Event, receive: Receive, send: Send) -> None:
        await script(receive, send)

    with LocalServer(app) as server, Wire(server.port, receive_buffer=8192) as wire:
        wire.send(LAST)
        (connection,) = wait_for(lambda: [c for c in server.connections if isinstance(c, HttpProtocol)])
        wait_for(connection.is_full)
        assert len(sent) < pieces
        assert len(wire.read_rest().partition(b"\r\n\r\n")[2]) == pieces << 18
        assert len(sent) == pieces


def test_a_body_is_read_as_far_as_it_is_wanted() -> None:
    """Server reads no more of a body than the application is ready for."""
    wanted = asyncio.Event()
    sizes: list[int] = []

    async def script(receive: Receive, send: Send) -> None:
        await wanted.wait()
        more = True
        while more:
            event = await receive()
            sizes.append(len(event["body"]))
            more = event["more_body"]
        await send(start(length(0)))
        await send(body())

    async def app(_scope: Event, receive: Receive, send: Send) -> None:
        await script(receive, send)

    size = 1 << 20
    with LocalServer(app) as server, Wire(server.port) as wire:
        wire.send(b"POST / HTTP/1.1\r\nHost: abide\r\nContent-Length: %d\r\n\r\n" % size + b"x" * (size // 2))
        (connection,) = wait_for(lambda: [c for c in server.connections if isinstance(c, HttpProtocol)])
        wait_for(lambda: not connection.is_reading)
        server.call(wanted.set)
        wire.send(b"x" * (size // 2))
        wire.read_until(b"\r\n\r\n")
    assert sum(sizes) == size
    assert max(sizes) < size // 2

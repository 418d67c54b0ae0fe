"""HTTP connections: how long an unfinished request is waited for."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from websockets.sync.client import connect

from app.server.http.connection import HttpProtocol
from app.server.http.deadlines import Times
from app.server.lasting.websocket import WebSocketProtocol
from tests.support.asgi_app import BODY_TIMEOUT, HEADER_TIMEOUT, LONG, WHOLE_TIMEOUT, app
from tests.support.local import LocalServer, wait_for
from tests.support.server import Server
from tests.support.wire import PATIENCE, TEXT, Wire, frame
from tests.support.wire import request as handshake

HEADER = b"GET /ok HTTP/1.1\r\nHost: abide\r\n"
REQUEST = HEADER + b"\r\n"


@pytest.fixture
def peer(edge: Server) -> Iterator[Wire]:
    """Connect to the server."""
    with Wire(edge.port) as peer:
        yield peer


@pytest.mark.parametrize("start", [b"", b"\r\n", b"G", HEADER], ids=["nothing", "line break", "letter", "half"])
def test_an_incomplete_header_is_late(peer: Wire, start: bytes) -> None:
    """Server closes a connection whose header is not complete in time."""
    begun = time.monotonic()
    peer.send(start)
    assert peer.is_closed_within(PATIENCE)
    assert time.monotonic() - begun > HEADER_TIMEOUT * 0.9
    assert peer.received == b""


@pytest.mark.parametrize("first", [b"", REQUEST], ids=["first request", "later request"])
@pytest.mark.parametrize("drop", [b"\r\n", b"X-Slow: yes\r\n"], ids=["line breaks", "headers"])
def test_a_dribbled_header_is_late(peer: Wire, first: bytes, drop: bytes) -> None:
    """Server closes a connection that sends its header drop by drop."""
    peer.send(first)
    if first:
        peer.read_until(b"\r\n\r\n0")
    peer.send(HEADER if drop.startswith(b"X") else drop)
    deadline = time.monotonic() + PATIENCE
    while not peer.is_closed_within(HEADER_TIMEOUT / 8):
        peer.send(drop)
        assert time.monotonic() < deadline


def test_an_unfinished_second_header_is_late(peer: Wire) -> None:
    """Server closes a connection that is kept alive and leaves its second header unfinished."""
    peer.send(REQUEST + HEADER)
    peer.read_until(b"\r\n\r\n0")
    assert peer.is_closed_within(PATIENCE)


def test_a_header_that_has_no_end_is_refused(peer: Wire) -> None:
    """Server refuses a header that has no end."""
    peer.send(HEADER + b"X-Large: " + b"x" * 60 * 1024)
    assert not peer.is_closed_within(HEADER_TIMEOUT / 8)
    peer.send(b"x" * 8 * 1024)
    assert peer.is_closed_within(PATIENCE)
    assert peer.received.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 9\r\n\r\n",
        b"Content-Length: 9\r\n\r\nhalf",
        b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
    ],
    ids=["no body", "half a body", "no end of trailers"],
)
def test_a_body_that_stalls_is_late(peer: Wire, body: bytes) -> None:
    """Server closes a connection whose body stalls."""
    begun = time.monotonic()
    peer.send(HEADER + body)
    assert peer.is_closed_within(PATIENCE)
    assert time.monotonic() - begun > BODY_TIMEOUT * 0.9


def test_a_slow_body_that_moves_is_waited_for(peer: Wire) -> None:
    """Server waits for a body that is slow but moves."""
    pieces = 8
    peer.send(HEADER + b"Content-Length: %d\r\n\r\n" % pieces)
    for _ in range(pieces):
        assert not peer.is_closed_within(BODY_TIMEOUT / 4)
        peer.send(b"x")
    assert b"200 OK" in peer.read_until(b"\r\n\r\n%d" % pieces)


def test_a_body_that_only_dribbles_is_late(peer: Wire) -> None:
    """Server closes a connection whose body moves, but would take for ever."""
    begun = time.monotonic()
    peer.send(HEADER + b"Content-Length: 10000\r\n\r\n")
    while not peer.is_closed_within(BODY_TIMEOUT / 4):
        peer.send(b"x")
        assert time.monotonic() - begun < PATIENCE
    assert time.monotonic() - begun > WHOLE_TIMEOUT * 0.9


def test_a_body_that_goes_on_after_its_answer_is_late(peer: Wire) -> None:
    """Server closes a connection whose body does not end soon after it was answered."""
    peer.send(b"POST /early HTTP/1.1\r\nHost: abide\r\nContent-Length: 10000\r\n\r\n")
    peer.read_until(b"early")
    begun = time.monotonic()
    while not peer.is_closed_within(BODY_TIMEOUT / 8):
        peer.send(b"x")
        assert time.monotonic() - begun < PATIENCE


def test_a_connection_is_idle_when_a_body_has_ended_after_its_answer() -> None:
    """Server closes a connection that asks for nothing more after the end of a body that was answered early."""
    with LocalServer(app, timeout_keep_alive=0.3) as server, Wire(server.port) as peer:
        peer.send(b"POST /early HTTP/1.1\r\nHost: abide\r\nContent-Length: 4\r\n\r\nha")
        peer.read_until(b"early")
        peer.send(b"lf")
        assert peer.is_closed_within(PATIENCE)


class Hurried(HttpProtocol):
    """The protocol with a moment for whoever reads an answer."""

    __slots__ = ()

    times = Times(answer=0.3, slowest=2**30)


@pytest.mark.parametrize("last", [b"", b"Connection: close\r\n"], ids=["kept alive", "closing"])
def test_an_answer_that_is_not_read_is_cut(last: bytes) -> None:
    """Server gives up an answer that its client does not read in time."""
    with LocalServer(app, http=Hurried) as server, Wire(server.port, receive_buffer=4096) as peer:
        peer.send(HEADER.replace(b"/ok", b"/big") + last + b"\r\n")
        wait_for(lambda: server.connections)
        wait_for(lambda: not server.connections)


def test_nothing_is_read_behind_an_answer_that_waits_for_its_reader() -> None:
    """Server opens a WebSocket behind a large answer when that has been read, and not before."""
    with LocalServer(app) as server, Wire(server.port, receive_buffer=4096) as peer:
        peer.send(HEADER.replace(b"/ok", b"/big") + b"\r\n" + handshake("/echo") + frame(TEXT, b"x"))
        wait_for(lambda: any(connection.is_full() for connection in server.connections))
        assert not any(isinstance(connection, WebSocketProtocol) for connection in server.connections)
        while b" 101 " not in peer.received:
            assert not peer.is_closed_within(0.01)
            peer.received = peer.received[-200:]
        peer.received = peer.received.rpartition(b"\r\n\r\n")[2]
        assert peer.read_frame() == (TEXT, b"x")
        peer.reset()


def test_a_body_in_many_pieces_and_a_websocket_behind_it_come_in_turn() -> None:
    """Server answers a body that takes several turns, and then the handshake that came with it."""
    chunks = b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n"
    with LocalServer(app) as server, Wire(server.port) as peer:
        peer.send(HEADER.replace(b"GET /ok", b"PUT /early") + chunks + handshake("/detached") + frame(TEXT, b"x"))
        assert peer.read_head().startswith(b"HTTP/1.1 200 ")
        assert b" 101 " in peer.read_head()
        assert peer.read_frame() == (TEXT, b"x")
        peer.reset()


def test_a_client_that_says_nothing_more_is_closed(peer: Wire) -> None:
    """Server closes a connection whose client has ended its half, after what was answered."""
    peer.send(REQUEST)
    peer.read_until(b"\r\n\r\n0")
    peer.socket.shutdown(socket.SHUT_WR)
    assert peer.is_closed_within(HEADER_TIMEOUT)


def test_requests_behind_one_that_is_answered_wait_as_bytes() -> None:
    """Server begins no request before the one ahead of it has been answered, however many have come."""
    with LocalServer(app) as server, Wire(server.port) as peer:
        peer.send(b"POST /late HTTP/1.1\r\nHost: abide\r\n\r\n" + REQUEST * 1000)
        wait_for(lambda: server.server.server_state.tasks)
        assert len(server.call(server.server.server_state.tasks.copy)) == 1
        peer.read_until(b"\r\n\r\n0")
        peer.reset()


@pytest.mark.parametrize("size", [1, 1024 * 1024], ids=["small", "more than is buffered"])
def test_a_peer_is_not_blamed_for_a_late_application(peer: Wire, size: int) -> None:
    """Server does not blame the peer when it is the application that does not read the body yet."""
    peer.send(b"POST /late HTTP/1.1\r\nHost: abide\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    peer.read_until(b"\r\n\r\n%d" % size)


def test_a_peer_is_not_blamed_while_it_waits_for_100_continue(peer: Wire) -> None:
    """Server does not blame a peer that waits for 100 Continue, nor right after it came."""
    peer.send(b"POST /late HTTP/1.1\r\nHost: abide\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
    peer.read_until(b"100 Continue\r\n\r\n")
    time.sleep(BODY_TIMEOUT / 2)  # the timer that ran while it waited has fired meanwhile
    peer.send(b"x")
    peer.read_until(b"\r\n\r\n1")


def test_an_answer_is_finished_though_the_next_header_is_not(peer: Wire) -> None:
    """Server finishes a long answer although the next header is unfinished."""
    peer.send(REQUEST.replace(b"/ok", b"/stream"))
    peer.read_until(b"begin\r\n")
    peer.send(HEADER)
    peer.read_until(b"end\r\n0\r\n\r\n")


def test_an_idle_connection_is_kept_alive(peer: Wire) -> None:
    """Server keeps a connection that is idle between requests, pipelined ones included."""
    peer.send(REQUEST + REQUEST)
    peer.read_until(b"\r\n\r\n0")
    assert not peer.is_closed_within(LONG)
    peer.received = b""
    peer.send(REQUEST)
    peer.read_until(b"\r\n\r\n0")


def test_a_websocket_outlives_the_header_timer(edge: Server) -> None:
    """Server leaves a WebSocket alone, however long it is silent."""
    with connect(f"{edge.ws_url}/echo", compression=None) as websocket:
        with pytest.raises(TimeoutError):
            websocket.recv(timeout=LONG)
        websocket.send("still here")
        assert websocket.recv(timeout=PATIENCE) == "still here"

"""Responses that were handed over: how they begin, flow and end, and what their peer is told."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import pytest

from app.core.ports import Heartbeat
from app.server.http.connection import HttpProtocol
from app.server.lasting.stream import StreamProtocol
from app.server.sockets import SEND_BUFFER
from tests.support.local import (
    Event,
    LocalServer,
    Receive,
    Recorder,
    Send,
    Streaming,
    stall,
    wait_for,
)
from tests.support.wire import Wire

GET = b"GET / HTTP/1.1\r\nHost: abide\r\n\r\n"
START: Event = {"type": "http.response.start", "status": 200, "headers": []}
MUTE = Heartbeat(b"", 3600)
CHUNK = b"2000\r\n" + bytes(8192) + b"\r\n"
"""Something to write."""

INTERVAL = 0.4
"""Seconds from hearing nothing of a peer to asking, and from that to giving it up."""

app = Streaming(MUTE)


@pytest.fixture(scope="module")
def local() -> Iterator[LocalServer]:
    """Serve the application that hands over."""
    with LocalServer(app) as server:
        yield server


def test_a_lasting_response_has_its_head_chunks_and_end(local: LocalServer) -> None:
    """Response that is handed over has its head, the chunks that its peer writes, and the last one at its close."""
    wire, peer = app.open(local)
    with wire:
        local.call(peer.writer.write, b"3\r\none\r\n")
        local.call(peer.writer.write, b"3\r\ntwo\r\n")
        local.call(peer.writer.close, 4404, "why")
        head, _, chunks = wire.read_rest().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\ntransfer-encoding: chunked\r\nconnection: close" in head
        assert chunks == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
        wait_for(lambda: not local.connections)
        local.call(peer.writer.write, CHUNK)
        local.call(peer.writer.close, 4405, "too late")
        local.call(peer.writer.pause)
        local.call(peer.writer.resume)
    assert peer.codes == [4404]


def test_a_close_is_told_in_a_later_turn(local: LocalServer) -> None:
    """Peer that closes is not told inside its own call."""
    wire, peer = app.open(local)

    def close_and_look() -> list[int]:
        peer.writer.close(4404, "")
        return list(peer.codes)

    with wire:
        assert local.call(close_and_look) == []
        assert wait_for(lambda: peer.codes) == [4404]


def test_what_a_reader_sends_is_dropped(local: LocalServer) -> None:
    """Server drops what is sent during a response that lasts, and answers none of it."""
    wire, peer = app.open(local, GET * 3)
    with wire:
        wire.send(GET * 10_000 + b"no HTTP at all")
        wire.send(bytes(1 << 20))
        local.call(peer.writer.write, b"3\r\nend\r\n")
        assert wire.read_until(b"\r\nend\r\n").count(b"HTTP/1.1") == 1
    assert peer.messages == []


def test_requests_before_a_lasting_response_are_answered_first(local: LocalServer) -> None:
    """Server answers first what was asked for before a response that lasts."""
    with Wire(local.port) as wire:
        known = len(app.peers)
        wire.send(GET.replace(b"/ ", b"/short ") * 2 + GET)
        (peer,) = wait_for(lambda: app.peers[known:])
        local.call(peer.writer.close, 1000, "")
        assert [answer[:3] for answer in wire.read_rest().split(b"\r\n\r\n")[1:]] == [b"okH", b"okH", b"0", b""]


def test_a_slow_reader_is_told_of_once_and_so_is_its_room(local: LocalServer) -> None:
    """Peer is told once that the connection is full, after some hundred KiB, and once that it has room again."""
    wire, peer = app.open(local, receive_buffer=4096)
    with wire:
        count = stall(local, peer, CHUNK)
        assert count * 8192 < StreamProtocol.high_water + 2 * SEND_BUFFER + 64 * 1024
        local.call(peer.writer.write, b"3\r\nend\r\n")
        assert peer.flow == ["full"]
        assert wire.read_until(b"\r\nend\r\n").count(CHUNK) == count
        wait_for(lambda: peer.flow == ["full", "writable"])
        assert not peer.writer.is_full()


def test_a_reader_that_stalled_before_is_full_until_it_reads(local: LocalServer) -> None:
    """Connection that was full before the handover is full, until its reader has read."""
    with Wire(local.port, receive_buffer=4096) as wire:
        known = len(app.peers)
        wire.send(GET.replace(b"/ ", b"/late "))
        (connection,) = wait_for(lambda: [c for c in local.connections if isinstance(c, HttpProtocol)])
        wait_for(lambda: connection.is_answering)
        local.call(connection.write, CHUNK * 500)
        local.call(app.go.set)
        (peer,) = wait_for(lambda: app.peers[known:])
        assert peer.writer.is_full()
        assert wire.read_until(b"\r\n\r\n").count(CHUNK) == 500
        wait_for(lambda: peer.flow == ["writable"])
        assert not peer.writer.is_full()


def test_a_close_of_a_stalled_reader_is_given_up(local: LocalServer) -> None:
    """Server gives up on an end that cannot leave, and forgets what is buffered."""
    wire, peer = app.open(local, receive_buffer=4096)
    with wire:
        stall(local, peer, CHUNK)
        local.call(peer.writer.close, 1013, "")
        wait_for(lambda: not local.connections)
    assert peer.codes == [1013]


@pytest.mark.parametrize("how", ["reset", "end", "half"])
def test_a_reader_that_leaves_is_told_as_1006(local: LocalServer, how: str) -> None:
    """Peer is told 1006 once when the reader has gone, or will send nothing more."""
    wire, peer = app.open(local)
    if how == "reset":
        wire.reset()
    elif how == "end":
        wire.socket.close()
    else:
        wire.socket.shutdown(socket.SHUT_WR)
        wire.read_rest()
        wire.socket.close()
    assert wait_for(lambda: peer.codes) == [1006]
    wait_for(lambda: not local.connections)
    local.call(peer.writer.write, CHUNK)
    assert peer.codes == [1006]


def test_a_response_ends_in_order_when_the_server_stops() -> None:
    """Response ends as a response ends when the server stops, and its peer is told 1012."""
    with LocalServer(app) as server:
        wire, peer = app.open(server)
        with wire:
            server.server.should_exit = True
            assert wire.read_rest().endswith(b"\r\n\r\n0\r\n\r\n")
        assert peer.codes == [1012]


@contextmanager
def impatient(heartbeat: Heartbeat) -> Iterator[tuple[LocalServer, Streaming]]:
    """Serve with little patience."""
    beating = Streaming(heartbeat)
    with LocalServer(beating, ws_ping_interval=INTERVAL, ws_ping_timeout=INTERVAL) as server:
        yield server, beating


def test_a_heartbeat_is_sent_again_and_again() -> None:
    """Heartbeat is sent again and again, no more often than it should be, and the connection stays."""
    with impatient(Heartbeat(b"3\r\n:\n\n\r\n", INTERVAL)) as (server, beating):
        wire, peer = beating.open(server)
        with wire:
            begun = time.monotonic()
            for _ in range(4):
                wire.read_until(b"3\r\n:\n\n\r\n")
            assert time.monotonic() - begun > 2 * INTERVAL
            assert peer.codes == []


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel gives nobody up so soon")
def test_a_reader_that_reads_nothing_is_given_up_in_its_time() -> None:
    """Reader that reads nothing is given up, and not before its time."""
    with impatient(MUTE) as (server, beating):
        wire, peer = beating.open(server, receive_buffer=4096)
        with wire:
            stall(server, peer, CHUNK)
            begun = time.monotonic()
            assert wait_for(lambda: peer.codes) == [1006]
            assert time.monotonic() - begun > INTERVAL
            wait_for(lambda: not server.connections)


def test_no_heartbeats_are_kept_for_a_stalled_reader() -> None:
    """Server keeps no heartbeats for a reader that does not read."""
    with LocalServer(
        beating := Streaming(Heartbeat(CHUNK * 8, 0.1)), ws_ping_interval=0.2, ws_ping_timeout=600
    ) as server:
        wire, peer = beating.open(server, receive_buffer=4096)
        with wire:
            connection = server.connections[0]
            wait_for(peer.writer.is_full)
            size = connection.buffered
            sweep = server.links.sweep
            tick = sweep.tick
            wait_for(lambda: sweep.tick > tick + 5)
            assert connection.buffered == size


def test_a_response_that_is_too_old_ends_in_order() -> None:
    """Response that has become too old ends as a response ends."""
    with impatient(MUTE) as (server, beating):
        wire, peer = beating.open(server)
        with wire:
            server.call(server.links.limits.limit_age, INTERVAL)
            assert wire.read_rest().endswith(b"\r\n\r\n0\r\n\r\n")
        assert peer.codes == [1012]


def test_a_response_that_begins_during_a_stop_is_told_at_once() -> None:
    """Response that begins when everybody has been told to go is told at once, and its head still leaves."""
    with LocalServer(app) as server:
        server.links.is_over = True
        wire, peer = app.open(server)
        with wire:
            assert wire.read_rest().endswith(b"\r\n\r\n0\r\n\r\n")
        assert peer.codes == [1012]


def test_the_end_is_told_in_a_context_of_its_own() -> None:
    """Peer is told of the end in a context of its own, not in that of the request in which it came."""
    about: ContextVar[str] = ContextVar("about", default="nothing")
    noted: list[str] = []

    class Noting(Recorder):
        def closed(self, code: int) -> None:
            super().closed(code)
            noted.append(about.get())

    async def script(scope: Event, _receive: Receive, send: Send) -> None:
        about.set("this request")
        await send(START)
        scope["extensions"]["abide.fanout"](Noting(), MUTE).close(1000, "")

    with running(script) as server, Wire(server.port) as wire:
        wire.send(GET)
        wire.read_rest()
        assert wait_for(lambda: noted) == ["nothing"]


@contextmanager
def running(script: object) -> Iterator[LocalServer]:
    """Serve an application that does the same with every request."""
    with LocalServer(script) as server:
        yield server


@pytest.mark.parametrize("how", ["before the start", "twice", "after the body", "of known length"])
def test_handing_over_out_of_order_raises_a_runtime_error(how: str) -> None:
    """Application that hands over when it may not is told so by a RuntimeError."""
    raised: list[RuntimeError] = []

    async def script(scope: Event, _receive: Receive, send: Send) -> None:
        handover = scope["extensions"]["abide.fanout"]
        try:
            if how == "before the start":
                handover(Recorder(), MUTE)
            elif how == "of known length":
                await send(START | {"headers": [(b"content-length", b"2")]})
            else:
                await send(START)
            if how == "after the body":
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
            if how == "twice":
                handover(Recorder(), MUTE).close(1000, "")
            handover(Recorder(), MUTE)
        except RuntimeError as error:
            raised.append(error)

    with running(script) as server, Wire(server.port) as wire:
        wire.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        wire.read_rest()
    assert len(raised) == 1


def test_nothing_may_be_sent_after_the_handover() -> None:
    """Application that has handed over may not send, and has nothing to receive but the end."""
    noted: list[object] = []

    async def script(scope: Event, receive: Receive, send: Send) -> None:
        await receive()
        listening = asyncio.ensure_future(receive())
        await send(START)
        writer = scope["extensions"]["abide.fanout"](Recorder(), MUTE)
        noted.append(await listening)
        noted.append(await receive())
        try:
            await send({"type": "http.response.body", "body": b"x"})
        except RuntimeError as error:
            noted.append(type(error))
        writer.close(1000, "")

    with running(script) as server, Wire(server.port) as wire:
        wire.send(GET)
        wire.read_rest()
    assert noted == [{"type": "http.disconnect"}, {"type": "http.disconnect"}, RuntimeError]


def test_a_failure_after_the_handover_breaks_the_response_off(caplog: pytest.LogCaptureFixture) -> None:
    """Server breaks a response off whose application fails although it has handed over, and logs one traceback."""
    peer = Recorder()

    async def script(scope: Event, _receive: Receive, send: Send) -> None:
        await send(START)
        scope["extensions"]["abide.fanout"](peer, MUTE).write(b"3\r\none\r\n")
        raise ZeroDivisionError

    with running(script) as server, Wire(server.port) as wire:
        wire.send(GET)
        assert wire.read_rest().endswith(b"\r\n\r\n3\r\none\r\n")
        assert wait_for(lambda: peer.codes) == [1006]
    assert len([record for record in caplog.records if record.levelno > logging.WARNING and record.exc_info]) == 1


def test_a_reader_that_left_before_the_handover_is_told_of() -> None:
    """Peer that is handed a response whose reader has gone is told so, and the application returns as always."""
    peer = Recorder()
    returned: list[bool] = []

    async def script(scope: Event, receive: Receive, send: Send) -> None:
        await receive()
        await receive()
        await send(START)
        scope["extensions"]["abide.fanout"](peer, MUTE).write(CHUNK)
        returned.append(True)

    with running(script) as server:
        with Wire(server.port) as wire:
            wire.send(GET)
            wait_for(lambda: server.server.server_state.tasks)
        assert wait_for(lambda: peer.codes) == [1006]
        assert returned
        wait_for(lambda: not server.connections)


@pytest.mark.parametrize("line", [b"HEAD / HTTP/1.1", b"GET / HTTP/1.0", b"POST / HTTP/1.1"])
def test_the_extension_is_only_where_a_response_may_last(line: bytes) -> None:
    """Extension is only where a response may last: in the scope of a GET, by a version that has chunks."""
    extensions: list[object] = []

    async def script(scope: Event, _receive: Receive, send: Send) -> None:
        extensions.append(scope.get("extensions"))
        await send(START)
        await send({"type": "http.response.body"})

    with running(script) as server, Wire(server.port) as wire:
        wire.send(line + b"\r\nHost: abide\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        wire.read_rest()
    assert extensions == [None]

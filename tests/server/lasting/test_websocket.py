"""Connections that were handed over: what the peer is told, how they flow, end, and what they cost."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from app.server.lasting.websocket import WebSocketProtocol
from app.server.sockets import SEND_BUFFER
from tests.support.local import Detached, LocalServer, Recorder, stall, wait_for
from tests.support.wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close, frame

MESSAGE = frame(BINARY, bytes(8192), mask=None)
"""Something to write."""

app = Detached()


@pytest.fixture(scope="module")
def local() -> Iterator[LocalServer]:
    """Serve the application that hands over."""
    with LocalServer(app) as server:
        yield server


def test_texts_and_bytes_go_both_ways(local: LocalServer) -> None:
    """Peer receives texts and bytes, and what it writes is sent as it is."""
    wire, peer = app.open(local)
    with wire:
        wire.send(frame(TEXT, "é".encode()) + frame(BINARY, b"\xff"))
        wait_for(lambda: len(peer.messages) == 2)
        local.call(peer.writer.write, MESSAGE)
        assert wire.read_frame() == (BINARY, bytes(8192))
    assert peer.messages == [("é".encode(), True), (b"\xff", False)]


def test_a_peer_is_told_once_that_it_is_full_and_once_that_it_has_room(local: LocalServer) -> None:
    """Peer is told once that the connection is full, and once that it has room again."""
    wire, peer = app.open(local, receive_buffer=4096)
    with wire:
        count = stall(local, peer, MESSAGE)
        local.call(peer.writer.write, MESSAGE)
        assert peer.flow == ["full"]
        for _ in range(count + 1):
            assert wire.read_frame() == (BINARY, bytes(8192))
        wait_for(lambda: peer.flow == ["full", "writable"])
        assert not peer.writer.is_full()


def test_a_slow_peer_gets_every_frame_whole_and_in_order(local: LocalServer) -> None:
    """Peer gets every frame whole and in order, though the kernel has room again while the server keeps some back."""
    wire, peer = app.open(local, receive_buffer=4096)

    def numbered(number: int) -> bytes:
        return number.to_bytes(4, "big") * 1777

    def write_and_read_on() -> int:
        count = 0
        while not peer.writer.is_full():
            peer.writer.write(frame(BINARY, numbered(count), mask=None))
            count += 1
        wire.received += wire.socket.recv(1 << 20)  # makes room, and the event loop has no turn to use it
        peer.writer.write(frame(BINARY, numbered(count), mask=None))
        return count + 1

    with wire:
        for number in range(local.call(write_and_read_on)):
            assert wire.read_frame() == (BINARY, numbered(number))


def test_the_kernel_does_not_hide_a_slow_peer(local: LocalServer) -> None:
    """Connection is full after some hundred KiB that its peer does not read, not after megabytes."""
    wire, peer = app.open(local, receive_buffer=4096)
    with wire:
        limit = WebSocketProtocol.high_water + 2 * SEND_BUFFER + 64 * 1024
        assert stall(local, peer, MESSAGE) * 8192 < limit


def test_no_pongs_are_kept_for_a_peer_that_does_not_read(local: LocalServer) -> None:
    """Server keeps no pongs for a peer that pings without end and does not read."""
    wire, peer = app.open(local, receive_buffer=4096)
    with wire:
        count = stall(local, peer, MESSAGE)
        wire.send(frame(PING, bytes(125)) * 10_000 + frame(TEXT, b"end"))
        wait_for(lambda: peer.messages)
        for _ in range(count):
            assert wire.read_frame()[0] == BINARY
        wire.send(close(1000))
        assert wire.read_close() == 1000


def test_a_peer_that_paused_reading_receives_everything_after(local: LocalServer) -> None:
    """Peer receives nothing while it has paused reading, and everything after."""
    wire, peer = app.open(local)
    with wire:
        local.call(peer.writer.pause)
        wire.send(frame(TEXT, b"x") * 10)
        wire.send(frame(PING))
        assert not wire.is_closed_within(0.1)
        assert peer.messages == []
        local.call(peer.writer.resume)
        assert wire.read_frame() == (PONG, b"")
        assert len(peer.messages) == 10


def test_a_pause_inside_received_holds_for_the_same_packet(local: LocalServer) -> None:
    """Peer that pauses while it receives gets the next message of the same packet only when it reads on."""

    class Pausing(Recorder):
        def received(self, data: bytes, *, text: bool) -> None:
            super().received(data, text=text)
            self.writer.pause()

    wire, peer = app.open(local)
    with wire:
        peer.__class__ = Pausing
        wire.send(frame(TEXT, b"1") + frame(TEXT, b"2") + frame(TEXT, b"3"))
        for count in (1, 2, 3):
            wait_for(lambda count=count: len(peer.messages) == count)  # type: ignore[misc]
            assert not wire.is_closed_within(0.02)
            assert len(peer.messages) == count
            local.call(peer.writer.resume)


def test_pausing_and_resuming_inside_received_keeps_the_order(local: LocalServer) -> None:
    """Peer that pauses and reads on at every one of many messages of a packet gets them all in order."""

    class Blinking(Recorder):
        def received(self, data: bytes, *, text: bool) -> None:
            super().received(data, text=text)
            self.writer.pause()
            self.writer.resume()

    wire, peer = app.open(local)
    with wire:
        peer.__class__ = Blinking
        wire.send(b"".join(frame(TEXT, b"%d" % n) for n in range(5000)))
        wait_for(lambda: len(peer.messages) == 5000)
        assert [data for data, _ in peer.messages] == [b"%d" % n for n in range(5000)]


def test_a_close_by_the_peer_is_told_once(local: LocalServer) -> None:
    """Peer that closes is told its code once, and what it still writes or receives is dropped."""
    wire, peer = app.open(local)
    with wire:
        local.call(peer.writer.close, 4400, "why")
        local.call(peer.writer.close, 4401, "again")
        local.call(peer.writer.write, MESSAGE)
        assert wire.read_frame() == (CLOSE, b"\x11\x30why")
        wire.send(frame(TEXT, b"late") + frame(PING, b"late") + close(4400))
        assert wire.read_rest() == b""
        wait_for(lambda: not local.connections)
        local.call(peer.writer.write, MESSAGE)
        local.call(peer.writer.close, 4402, "too late")
        local.call(peer.writer.pause)
        local.call(peer.writer.resume)
    assert (peer.codes, peer.messages) == ([4400], [])


def test_a_close_is_told_in_a_later_turn(local: LocalServer) -> None:
    """Peer that closes is not told inside its own call."""
    wire, peer = app.open(local)

    def close_and_look() -> list[int]:
        peer.writer.close(4400, "")
        return list(peer.codes)

    with wire:
        assert local.call(close_and_look) == []
        assert wait_for(lambda: peer.codes) == [4400]


def test_a_close_is_answered_while_reading_is_paused(local: LocalServer) -> None:
    """Server reads on for the answer to a close although reading is paused."""
    wire, peer = app.open(local)
    with wire:
        local.call(peer.writer.pause)
        wire.send(frame(TEXT, b"x"))
        local.call(peer.writer.close, 4400, "")
        wire.send(close(4400))
        assert wire.read_close() == 4400


def test_a_mistake_after_the_close_gets_no_second_close(local: LocalServer) -> None:
    """Server that has sent its close does not send another one for a mistake in what it awaits."""
    wire, peer = app.open(local)
    with wire:
        local.call(peer.writer.close, 4400, "")
        wire.send(frame(CONTINUATION))
        assert wire.read_close() == 4400
    assert peer.codes == [4400]


def test_an_unanswered_close_cuts_the_link(local: LocalServer) -> None:
    """Server cuts the link of a peer that does not answer its close."""
    wire, peer = app.open(local)
    with wire:
        local.call(peer.writer.close, 4400, "")
        assert wire.read_frame()[0] == CLOSE
        with pytest.raises(ConnectionResetError):
            wire.read_rest()
    assert peer.codes == [4400]


def test_a_close_of_a_stalled_peer_is_given_up(local: LocalServer) -> None:
    """Server gives up on a close that cannot leave, and forgets what is buffered."""
    wire, peer = app.open(local, receive_buffer=4096)
    with wire:
        stall(local, peer, MESSAGE)
        local.call(peer.writer.close, 1013, "")
        wait_for(lambda: not local.connections)
    assert peer.codes == [1013]


def test_a_close_by_a_stalled_peer_is_given_up(local: LocalServer) -> None:
    """Server gives up on a peer that closes and then does not read the answer."""
    wire, peer = app.open(local, receive_buffer=4096)
    with wire:
        stall(local, peer, MESSAGE)
        wire.send(close(4000))
        assert wait_for(lambda: peer.codes) == [4000]
        wait_for(lambda: not local.connections)


def test_a_mistake_in_a_flood_is_still_answered_with_a_close(local: LocalServer) -> None:
    """Peer that goes on sending after a mistake still reads the close that tells it so."""
    wire, peer = app.open(local)
    with wire:
        wire.send(frame(TEXT, b"\xff") + bytes(4 * 1024 * 1024))
        assert wire.read_close() == 1007
    assert peer.codes == [1007]


def test_a_peer_that_stays_after_its_mistake_is_cut_off(local: LocalServer) -> None:
    """Server cuts the link of a peer that stays after its mistake."""
    wire, _ = app.open(local)
    with wire:
        wire.send(frame(TEXT, b"\xff"))
        assert wire.read_close() == 1007
        wait_for(lambda: not local.connections)


@pytest.mark.parametrize("how", ["reset", "end"])
def test_a_link_that_died_is_told_once_as_1006(local: LocalServer, how: str) -> None:
    """Peer is told 1006 once when the link ends without a close."""
    wire, peer = app.open(local)
    if how == "reset":
        wire.reset()
    else:
        wire.socket.close()
    assert wait_for(lambda: peer.codes) == [1006]
    wait_for(lambda: not local.connections)
    local.call(peer.writer.write, MESSAGE)
    assert peer.codes == [1006]


def test_a_half_closed_link_ends_the_connection(local: LocalServer) -> None:
    """Server ends a connection whose peer will send nothing more."""
    wire, peer = app.open(local)
    with wire:
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.read_rest() == b""
        assert wait_for(lambda: peer.codes) == [1006]


def test_a_stop_is_told_as_1012() -> None:
    """Peer is told 1012 when the server stops."""
    with LocalServer(app) as server:
        wire, peer = app.open(server)
        with wire:
            server.server.should_exit = True
            assert wire.read_frame() == (CLOSE, b"\x03\xf4the server restarts")
            wire.send(close(1012))
            assert wire.read_rest() == b""
        assert peer.codes == [1012]


def test_a_wrong_close_code_raises_a_value_error(local: LocalServer) -> None:
    """Peer that closes with a code that must not be sent is told so by a ValueError."""
    wire, peer = app.open(local)
    with wire, pytest.raises(ValueError, match="1006"):
        local.call(peer.writer.close, 1006, "")

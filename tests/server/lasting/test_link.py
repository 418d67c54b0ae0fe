"""The same bytes for many connections at once, whatever state each of them is in."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from app.core.ports import Heartbeat
from app.server.sockets import borrow
from tests.support.local import LocalServer, Recorder, Streaming, wait_for
from tests.support.wire import Wire

END = b"3\r\nend\r\n"

app = Streaming(Heartbeat(b"", 3600))


def numbered(number: int) -> bytes:
    """Return a chunk of 8 KiB that tells which one it is."""
    return b"2000\r\n" + b"%08d" % number * 1024 + b"\r\n"


@pytest.fixture(scope="module")
def local() -> Iterator[LocalServer]:
    """Serve the application that hands over."""
    with LocalServer(app) as server:
        yield server


def write_all(local: LocalServer, peers: list[Recorder], data: bytes) -> None:
    writers = [peer.writer for peer in peers]
    local.call(writers[0].write_all, writers, data)


def test_every_connection_is_sent_the_same(local: LocalServer) -> None:
    """Write to many reaches each of them once, the first write after the handover like the next."""
    with ExitStack() as stack:
        opened = [app.open(local) for _ in range(5)]
        wires = [stack.enter_context(wire) for wire, _ in opened]
        for number in range(3):
            write_all(local, [peer for _, peer in opened], numbered(number))
        write_all(local, [peer for _, peer in opened], END)
        for wire in wires:
            received = wire.read_until(END)
            assert received.partition(b"\r\n\r\n")[2] == b"".join(map(numbered, range(3))) + END


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_that_does_not_read_delays_nobody(local: LocalServer, place: int) -> None:
    """Write to many delays nobody for one that is full, wherever it stands, and that one has every byte in order."""
    with ExitStack() as stack:
        opened = [app.open(local, receive_buffer=4096 if number == place else None) for number in range(3)]
        wires: list[Wire] = [stack.enter_context(wire) for wire, _ in opened]
        peers = [peer for _, peer in opened]
        count = 0
        while not peers[place].writer.is_full():
            write_all(local, peers, numbered(count))
            count += 1
            for number, wire in enumerate(wires):
                if number != place:
                    wire.read_until(numbered(count - 1))
        write_all(local, peers, END)
        assert [peer.flow for peer in peers] == [["full"] if number == place else [] for number in range(3)]
        received = wires[place].read_until(END)
        assert received.partition(b"\r\n\r\n")[2] == b"".join(map(numbered, range(count))) + END


def test_one_that_has_gone_is_passed_over(local: LocalServer) -> None:
    """Write to many passes over one whose peer has reset it, and one that was closed."""
    with ExitStack() as stack:
        opened = [app.open(local) for _ in range(4)]
        wires = [stack.enter_context(wire) for wire, _ in opened]
        peers = [peer for _, peer in opened]
        write_all(local, peers, numbered(0))
        wires[1].reset()
        local.call(peers[2].writer.close, 1000, "")
        for number in range(1, 40):
            write_all(local, peers, numbered(number))
        write_all(local, peers, END)
        for place in (0, 3):
            assert wires[place].read_until(END).count(b"2000\r\n") == 40
        assert wait_for(lambda: peers[1].codes) == [1006]
        assert peers[2].codes == [1000]


def test_a_borrowed_socket_closes_nothing() -> None:
    """Socket that was borrowed from its owner sends by the owner's descriptor, and leaves it open when it is freed."""
    owner, peer = socket.socketpair()
    with owner, peer:
        borrowed = borrow(owner)
        borrowed.send(b"by the borrower, ")
        del borrowed
        owner.send(b"by the owner")
        assert peer.recv(100) == b"by the borrower, by the owner"


def test_a_borrowed_socket_does_not_wait() -> None:
    """Socket that was borrowed refuses what there is no room for, also where sockets of the process wait by default."""
    owner, peer = socket.socketpair()
    with owner, peer:
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(60)
        try:
            borrowed = borrow(owner)
        finally:
            socket.setdefaulttimeout(before)
        with pytest.raises(BlockingIOError):
            borrowed.sendall(bytes(10_000_000))

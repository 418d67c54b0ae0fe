"""The corpus over real sockets: what the connection class reads in memory is what the server reads from a socket."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest

from tests.support.local import LocalServer
from tests.support.reading.corpus import BEHIND, TOPICS, entries
from tests.support.reading.echo import Echo
from tests.support.reading.judge import Reading, try_reading
from tests.support.reading.ours import CONTINUE, Ours, Outcome
from tests.support.wire import Wire

SWITCHED = re.compile(rb"HTTP/1\.1 101 .*?\r\n\r\n", re.DOTALL)

LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Ours, Echo, int]]:
    """Start our server twice: in memory, and on a port, with its application."""
    logger = logging.getLogger("uvicorn.error")
    before = logger.level
    logger.setLevel(logging.ERROR)  # thousands of refusals
    echo = Echo()
    with Ours() as ours, LocalServer(echo, timeout_keep_alive=60) as server:
        yield ours, echo, server.port
    logger.setLevel(before)


@pytest.mark.parametrize("topic", TOPICS)
def test_a_socket_makes_no_difference(both: tuple[Ours, Echo, int], topic: str) -> None:
    """Server reads the same from a socket; where it closes while something is unread, its answers may be lost."""
    ours, echo, port = both
    wrong = []
    echo.take()  # what a test that failed has left
    for entry in entries():
        if entry.topic != topic or not entry.is_finite:
            continue
        stream = entry.sent + BEHIND + LAST
        expected = try_reading(ours.read([[stream]])[0])
        assert isinstance(expected, Reading), f"{entry.name!r}: {expected}"
        received = converse(port, stream, entry.name)
        seen = echo.take()
        if received is None:
            got: Reading | str = expected._replace(messages=seen)
        else:
            # In the end every connection is closed.
            got = try_reading(Outcome(seen, received.replace(CONTINUE, b""), expected.closed))
        if got != expected:
            wrong.append(f"{entry.name!r}: from a socket {got}, in memory {expected}"[:1000])
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(wrong)


def converse(port: int, stream: bytes, name: str) -> bytes | None:
    """Return what is answered until the end, or the opening of a WebSocket; None if the connection was reset."""
    with Wire(port) as wire:
        try:
            wire.socket.sendall(stream)
            while not SWITCHED.search(wire.received) and (data := wire.socket.recv(65536)):
                wire.received += data
        except ConnectionError:
            return None
        except TimeoutError:
            pytest.fail(f"{name!r} is not answered to the end: {wire.received!r}")
        return wire.received

"""The load client reads what servers send, however it is cut, and tells why a connection has ended."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.support.load_client import (
    V1_PROTOCOL,
    BrokenError,
    Connection,
    Events,
    EventStream,
    Frames,
    RefusedError,
    WebSocket,
)
from tests.support.server import Server

CHANNELS = """\
backend: memory://
channels:
  lebowski: {publish: anyone}
"""
FRAMES = b"\x81\x05hello\x89\x00\x81\x7e\x00\x80" + b"x" * 128 + b"\x88\x02\x03\xe8"
PIECES = (b"retry: 2000\n\nid: ", b"7\n\n", b":hi\n\n", b"event: gap\ndata: {}\n\nid: ", b"")
CHUNKS = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in PIECES)


@pytest.mark.parametrize("size", range(1, 12))
def test_frames_are_read_however_they_are_cut(size: int) -> None:
    """Frames come out whole, in pieces of whatever size their bytes come."""
    frames = Frames()
    pieces = [FRAMES[at : at + size] for at in range(0, len(FRAMES), size)]
    assert [frame for piece in pieces for frame in frames.feed(piece)] == [
        (0x1, b"hello"),
        (0x9, b""),
        (0x1, b"x" * 128),
        (0x8, b"\x03\xe8"),
    ]


@pytest.mark.parametrize("data", [b"\x01\x00", b"\xc1\x00", b"\x81\x80\x00\x00\x00\x00"])
def test_a_frame_that_no_server_may_send_is_told(data: bytes) -> None:
    """Frame that is a part, has a reserved bit, or is masked, is an error."""
    with pytest.raises(BrokenError):
        Frames().feed(data)


@pytest.mark.parametrize("size", range(1, 12))
def test_events_are_read_however_they_are_cut(size: int) -> None:
    """Events come out whole, over the borders of chunks, and the last chunk is the end."""
    events = Events()
    pieces = [CHUNKS[at : at + size] for at in range(0, len(CHUNKS), size)]
    assert [event for piece in pieces for event in events.feed(piece)] == [{"id": "7"}, {"event": "gap", "data": "{}"}]
    assert events.is_over


async def ended(connection: Connection) -> Exception:
    await connection.over
    return connection.error


def test_a_connection_tells_what_came_and_why_it_ended() -> None:
    """Connection hands on what the server sends; its end is told as a refusal, an error of its own, or the close."""
    frames: list[dict[str, object]] = []
    events: list[dict[str, str]] = []

    def cannot(_: bytes) -> None:
        raise KeyError

    async def run(server: Server) -> tuple[Exception, Exception, Exception]:
        refused = await WebSocket("/nowhere", cannot).connect(server.port)
        with pytest.raises(RefusedError, match=" 404 "):
            await refused.opened
        failing = await WebSocket("/lebowski", cannot, V1_PROTOCOL).connect(server.port)
        reading = await WebSocket("/lebowski", lambda text: frames.append(json.loads(text)), V1_PROTOCOL).connect(
            server.port
        )
        stream = await EventStream("/lebowski", events.append).connect(server.port)
        await asyncio.gather(reading.opened, stream.opened)
        stopping = asyncio.to_thread(server.stop)
        answers = await asyncio.gather(ended(failing), ended(reading), ended(stream), stopping)
        assert reading.code == 1012
        return answers[:3]

    with Server(channels=CHANNELS) as server:
        failure, close, end = asyncio.run(run(server))
    assert isinstance(failure, KeyError)
    assert str(close).startswith("closed with 1012")
    assert isinstance(end, ConnectionError)
    assert [frame["type"] for frame in frames] == ["subscribed"]
    assert "id" in events[0]

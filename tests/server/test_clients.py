"""Clients that others wrote, against both echoes of the real worker."""

from __future__ import annotations

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.support.server import Server
from tests.support.wire import PATIENCE

MESSAGES: list[str | bytes] = ["", "hello", "κόσμε", b"", b"\xff\x00", "x" * 126, b"x" * 65536, "é" * 300_000]

pytestmark = pytest.mark.parametrize("path", ["/echo", "/detached"])


async def test_the_websockets_client_talks_and_closes(edge: Server, path: str) -> None:
    """Client of websockets gets back what it sends, whole and in fragments, is answered pings and closes."""
    async with connect(edge.ws_url + path, max_size=None) as websocket:
        assert websocket.response is not None
        assert "sec-websocket-extensions" not in websocket.response.headers
        for message in MESSAGES:
            await websocket.send(message)
            assert await websocket.recv() == message
        await websocket.send(["frag", "men", "ts"])
        assert await websocket.recv() == "fragments"
        await (await websocket.ping(b"are you there?"))
        await websocket.close(4000, "bye")
    assert websocket.close_code == 4000


async def test_the_websockets_client_gets_everything_back_in_order(edge: Server, path: str) -> None:
    """Client of websockets that sends before it reads gets everything back in order."""
    async with connect(edge.ws_url + path) as websocket:
        for number in range(2000):
            await websocket.send(str(number))
        assert [await websocket.recv() for _ in range(2000)] == [str(number) for number in range(2000)]


async def test_the_websockets_client_reads_why_it_is_closed(edge: Server, path: str) -> None:
    """Client of websockets reads why it is closed."""
    async with connect(edge.ws_url + path) as websocket:
        await websocket.send(b"x" * 1_200_000)
        with pytest.raises(ConnectionClosed) as closed:
            await websocket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009
    assert closed.value.rcvd.reason.startswith("message is over ")


async def test_the_aiohttp_client_talks_and_closes(edge: Server, path: str) -> None:
    """Client of aiohttp gets back what it sends, and closes."""
    async with aiohttp.ClientSession() as session:
        timeout = aiohttp.ClientWSTimeout(ws_receive=PATIENCE)
        async with session.ws_connect(edge.url + path, timeout=timeout, max_msg_size=0) as websocket:
            for message in MESSAGES:
                if isinstance(message, str):
                    await websocket.send_str(message)
                    assert await websocket.receive_str() == message
                else:
                    await websocket.send_bytes(message)
                    assert await websocket.receive_bytes() == message
            await websocket.close(code=4000)
            assert websocket.close_code == 4000

"""Peer: the websockets library's server and its ``broadcast()``; messages come by POST on a second port.

``python -m benchmarks.peers.broadcast PORT PUSH_PORT``
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

_connections: dict[str, set[ServerConnection]] = {}


async def _subscriber(connection: ServerConnection) -> None:
    path = connection.request.path if connection.request else "/"
    members = _connections.setdefault(path, set())
    members.add(connection)
    try:
        await connection.wait_closed()
    finally:
        members.discard(connection)


async def _publisher(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one HTTP connection: enough of it for the load client."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = head.lower().partition("content-length:")[2].split()
            body = await reader.readexactly(int(length[0]) if length else 0)
            broadcast(_connections.get(head.split()[1], ()), body.decode())
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _main(port: int, push_port: int) -> None:
    async with (
        serve(_subscriber, "127.0.0.1", port, compression=None),
        await asyncio.start_server(_publisher, "127.0.0.1", push_port),
    ):
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(int(sys.argv[1]), int(sys.argv[2])))

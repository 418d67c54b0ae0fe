"""What is asked of a transport's socket."""

from __future__ import annotations

import asyncio
import socket
import struct

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s

_ACCEPTED_AT_ONCE = 16
"""Connections that are accepted in one turn of the event loop: uvloop takes one for each listening descriptor."""

RECEIVE_BUFFER = 64 * 1024
"""Bytes asked for as the receive buffer of a connection; Linux takes twice that. It is what one read may bring."""

SEND_BUFFER = 64 * 1024
"""Bytes asked for as the send buffer of a socket whose peer may stall; Linux takes twice that.

Left alone, the kernel would grow it to megabytes for each of them, and hide from us that they stall: the transport's
own buffer stays empty until then.
"""


def prepare(listener: socket.socket) -> list[socket.socket]:
    """Bound the buffers that a listener's connections inherit; return it, and copies for what is accepted at once."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    return [listener, *(listener.dup() for _ in range(_ACCEPTED_AT_ONCE - 1))]


def set_option(transport: asyncio.BaseTransport, level: int, option: int, value: int | bytes) -> None:
    """Set an option, where the transport has a socket, and that is open."""
    link = transport.get_extra_info("socket")
    if link is not None and link.fileno() >= 0:
        link.setsockopt(level, option, value)


def limit_send_buffer(transport: asyncio.BaseTransport) -> None:
    """Let the kernel hold no more than :data:`SEND_BUFFER` asks for."""
    set_option(transport, socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)


def abort(transport: asyncio.Transport) -> None:
    """Cut the link and forget what is buffered, in the kernel too."""
    set_option(transport, socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()

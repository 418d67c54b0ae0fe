"""The options that are set on sockets."""

from __future__ import annotations

import asyncio
import socket
import struct

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s

_ACCEPTED_AT_ONCE = 16
"""Connections accepted in one turn of the event loop: uvloop accepts one for each listening descriptor."""

RECEIVE_BUFFER = 64 * 1024
"""The receive buffer of a connection, in bytes; Linux doubles it. One read may return that much."""

SEND_BUFFER = 64 * 1024
"""The send buffer of a socket whose peer may stall, in bytes; Linux doubles it.

By default the kernel would let it grow to megabytes for each stalled peer. Until it is full, the transport's own buffer
is empty, so the server would not notice that the peer stalls.
"""


def prepare(listener: socket.socket) -> list[socket.socket]:
    """Bound the buffers that connections inherit from a listener; return it with its copies, each of which accepts."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    return [listener, *(listener.dup() for _ in range(_ACCEPTED_AT_ONCE - 1))]


def passes_buffers_on(listener: socket.socket) -> bool:
    """Whether connections inherit the bounds of their listener's buffers: those of TCP do."""
    return listener.family in {socket.AF_INET, socket.AF_INET6}


def peer_address(transport: asyncio.BaseTransport) -> tuple[str, int] | None:
    """Return the host and port of the peer; None if it has none, as on a Unix socket."""
    name = transport.get_extra_info("peername")
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None


def set_option(transport: asyncio.BaseTransport, level: int, option: int, value: int | bytes) -> None:
    """Set an option if the transport has an open socket."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(level, option, value)


def limit_send_buffer(transport: asyncio.BaseTransport) -> None:
    """Bound the kernel's send buffer by :data:`SEND_BUFFER`."""
    set_option(transport, socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)


class _BorrowedSocket(socket.SocketType):
    """A socket that closes nothing when it is freed: its descriptor is a transport's."""

    __slots__ = ()

    def __del__(self) -> None:
        """Replace the base class's, which closes the descriptor."""


def borrow(sock: socket.socket) -> socket.SocketType:
    """Return an object to send by, over the descriptor of a transport's socket; not to be used when that is closed.

    Its system call costs a twentieth less than that of :func:`os.write`, which takes a detour by the kernel's files.
    """
    borrowed = _BorrowedSocket(sock.family, sock.type, sock.proto, sock.fileno())
    borrowed.settimeout(0)  # it would wait for room where the process has set a default timeout
    return borrowed


def closed() -> socket.SocketType:
    """Return a socket that raises OSError when it is sent by."""
    sock = _BorrowedSocket()
    sock.close()
    return sock


def abort(transport: asyncio.Transport) -> None:
    """Reset the connection, and drop what is buffered, in the kernel too."""
    set_option(transport, socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()

r"""How workers wake each other: a datagram after each commit, to the socket of every other worker.

The sockets are in the folder of ``app/bus/sqlite/file/claim.py``, which only the server's user can enter. A datagram
holds the number of the commit and its messages; of a large commit, the new heads::

    <commit, or 0 if more of it follows>\n
    <channel> <epoch> <last> <n> <time> <bytes>\n<body>   messages
    <channel> <head>\n                                    a head that has moved

``?`` asks for a look at the heads, ``! <time>`` is a worker's word to itself. All are hints: what does not arrive is
found by a look. A worker whose queue is full is rung until it takes a ``?``, so that it looks at once when it comes to.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from app.bus.sqlite.commit import Segment
from app.bus.sqlite.file.file_faults import FileError

INLINE_BYTES = 48 * 1024
"""The most bytes of a commit's messages that are in its datagram."""

_DATAGRAM_BYTES = 56 * 1024
_MOST_BYTES = 128 * 1024
_AT_ONCE = 32
"""The most datagrams that are heard in one turn of the event loop."""

_LONGEST_PATH = 100
"""The most bytes of a socket's path on every system."""

_SOONEST_RING, _LATEST_RING = 0.01, 0.5
_SAME_TICK_NS = 50_000_000
"""A folder that changed this short a time before it was listed may have changed again with the same time."""

_ASK, _BEAT = b"?", b"!"
_SUFFIX = ".sock"


class Listening(Protocol):
    """What hears the datagrams, on the event loop."""

    def heard_commit(self, number: int) -> None:
        """Learn that a whole commit was heard."""

    def heard_messages(self, segment: Segment) -> None:
        """Hear messages."""

    def heard_head(self, channel: str, head: int) -> None:
        """Hear that a head has moved."""

    def asked(self) -> None:
        """Look at the heads soon."""

    def beat(self, seconds: float) -> None:
        """Hear oneself after so many seconds."""


class Wakeups:
    """The socket of this worker, in ``folder``."""

    def __init__(self, folder: Path, listening: Listening) -> None:
        self._listening = listening
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._near = f"/proc/self/fd/{self._folder}"
        if not os.path.isdir(self._near):  # noqa: PTH112 — it is no file of ours. And not Linux
            self._near = os.fspath(folder.absolute())
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
        self._loop = asyncio.get_running_loop()
        try:
            self._socket = self._socket_here()
        except BaseException:
            os.close(self._folder)
            raise
        self._peers: tuple[str, ...] = ()
        self._listed = (0, 0)
        """The time of the folder's last change when it was listed, and when that was, in nanoseconds."""
        self._deaf: dict[str, None] = {}
        """Whose queues are full."""
        self._ringing: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._socket, self._hear)

    def close(self) -> None:
        """Hear no more, and leave."""
        self._loop.remove_reader(self._socket)
        if self._ringing is not None:
            self._ringing.cancel()
        with contextlib.suppress(OSError):
            os.unlink(self._path(self._name))  # noqa: PTH108 — by its short name
        self._socket.close()
        os.close(self._folder)
        self._folder = -1

    def tell(self, commit: int, segments: Sequence[Segment]) -> None:
        """Tell every other worker of a commit. Called in the thread that writes."""
        datagrams: list[bytes] | None = None
        for peer in self._others():
            datagrams = datagrams or list(_written(commit, segments))
            if not all(self._send(peer, datagram) for datagram in datagrams):
                self._loop.call_soon_threadsafe(self._owe, peer)

    def beat(self) -> bool:
        """Send oneself a word; return False if the queue is full. Raises :class:`FileError` if nobody can send any."""
        if not os.path.exists(self._path(self._name)):  # noqa: PTH110 — by its short name
            msg = f"the socket {self._name} was removed from the folder of the workers"
            raise FileError(msg)
        return self._send(self._name, b"%b %d" % (_BEAT, time.monotonic_ns()))

    def _socket_here(self) -> socket.socket:
        path = self._path(self._name)
        if len(os.fsencode(path)) > _LONGEST_PATH:
            msg = f"{path} is too long for a socket: keep the log in a folder with a shorter path"
            raise FileError(msg)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_NONBLOCK", 0))
        try:
            made.setblocking(False)  # noqa: FBT003 — its only parameter
            made.bind(path)
        except BaseException:
            made.close()
            raise
        return made

    def _path(self, name: str) -> str:
        return f"{self._near}/{name}"

    def _others(self) -> tuple[str, ...]:
        """Return the names of the other workers' sockets."""
        changed, now = os.fstat(self._folder).st_mtime_ns, time.time_ns()
        before, listed = self._listed
        if changed != before or listed - changed < _SAME_TICK_NS:
            names = os.listdir(self._folder)  # noqa: PTH208 — of a descriptor
            self._peers = tuple(name for name in names if name.endswith(_SUFFIX) and name != self._name)
            self._listed = changed, now
        return self._peers

    def _send(self, peer: str, datagram: bytes) -> bool:
        """Send a datagram to one worker; return False if its queue is full. A socket of nobody is removed."""
        try:
            self._socket.sendto(datagram, self._path(peer))
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                os.unlink(self._path(peer))  # noqa: PTH108 — by its short name
        except FileNotFoundError:
            pass
        except OSError:
            return False
        return True

    def _owe(self, peer: str) -> None:
        self._deaf[peer] = None
        if self._ringing is None:
            self._ringing = self._loop.call_later(_SOONEST_RING, self._ring, _SOONEST_RING)

    def _ring(self, waited: float) -> None:
        self._deaf = {peer: None for peer in self._deaf if not self._send(peer, _ASK)}
        again = min(2 * waited, _LATEST_RING)
        self._ringing = self._loop.call_later(again, self._ring, again) if self._deaf else None

    def _hear(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                datagram = self._socket.recv(_MOST_BYTES)
            except OSError:
                return
            if datagram[:1] == _ASK:
                self._listening.asked()
            elif datagram[:1] == _BEAT:
                self._listening.beat((time.monotonic_ns() - int(datagram[1:])) / 1e9)
            else:
                self._take(datagram)

    def _take(self, datagram: bytes) -> None:
        line, _, rest = datagram.partition(b"\n")
        while rest:
            words, _, rest = rest.partition(b"\n")
            channel, *numbers = words.decode().split(" ")
            if len(numbers) == 1:
                self._listening.heard_head(channel, int(numbers[0]))
                continue
            epoch, last, n, taken, size = numbers[0], *map(int, numbers[1:])
            self._listening.heard_messages(Segment(channel, epoch, last, n, taken, rest[:size]))
            rest = rest[size:]
        if line != b"0":
            self._listening.heard_commit(int(line))


def _written(commit: int, segments: Sequence[Segment]) -> Iterator[bytes]:
    """Return the datagrams of a commit; only the last one has its number."""
    is_inline = sum(len(segment.body) for segment in segments) <= INLINE_BYTES
    items = map(_messages, segments) if is_inline else _heads(segments)
    part: list[bytes] = []
    size = 0
    for item in items:
        if size + len(item) > _DATAGRAM_BYTES:
            yield b"".join((b"0\n", *part))
            part, size = [], 0
        part.append(item)
        size += len(item)
    yield b"".join((b"%d\n" % commit, *part))


def _messages(segment: Segment) -> bytes:
    channel, epoch, last, n, taken, body = segment
    return f"{channel} {epoch} {last} {n} {taken} {len(body)}\n".encode() + body


def _heads(segments: Iterable[Segment]) -> Iterator[bytes]:
    heads = {segment.channel: segment.last for segment in segments}
    return (f"{channel} {head}\n".encode() for channel, head in heads.items())

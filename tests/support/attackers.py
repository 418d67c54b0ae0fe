"""Many clients at once that mean harm: each a thread, and a connection that it uses as no honest client would."""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.support.wire import Wire, request

CHANNELS = """\
backend: memory://
defaults: {publish: anyone}
channels:
  probe: {}
  news: {}
  events: {client_publish: true, max_message_size: 1MiB}
  filled: {}
  "room.{id}": {}
"""
"""What the attacks are made for: everything open, as little refused by policy as can be."""

FILLED, FILLED_SIZE = 1000, 13 * 1024
"""How many messages ``filled`` has, and of how many bytes each."""

_LOOK_SECONDS = 0.5  # between two looks at whether it is over
_PUBLISH_SECONDS = 0.01
_PUBLISHED_SIZE = 16 * 1024
_RECEIVE_BUFFER = 4096  # of who does not read: what the kernel takes is not left to the server
_SEND_BUFFER = 128 * 1024  # what has left has arrived, but for this much
_END_SECONDS = 30.0
_GONE = select.POLLHUP | select.POLLERR | select.POLLRDHUP


@dataclass(frozen=True, slots=True)
class Attack:
    """One way to do harm."""

    name: str
    what: str
    """What each attacker does, for a table."""
    run: Callable[[Attacker], None]
    """Does it once; an OSError ends it early."""
    payload: Callable[[], bytes] = bytes
    """Makes what all attackers send; called once."""
    reads: bool = True
    """Whether attackers take what they are sent."""
    lasts: bool = False
    """Whether attackers stay for as long as they are left alone."""
    publishes: bool = False
    """Whether somebody else publishes to ``news`` meanwhile."""


class Attacker(threading.Thread):
    """One of many."""

    def __init__(self, attack: Attack, port: int, number: int, payload: bytes, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.number = number
        """Which one of them it is."""
        self.payload = payload
        self.times = 0
        """How often it has begun."""
        self.sent = 0
        """Bytes that left."""
        self.is_relentless = True
        """Whether it begins again when it has done it, or was closed."""
        self._attack, self._port, self._over = attack, port, over
        self._wire: Wire | None = None

    def run(self) -> None:
        """Attack until it is over."""
        while not self._over.is_set():
            self.times += 1
            with contextlib.suppress(OSError, AssertionError):  # refused, or closed: that is the server's right
                self._attack.run(self)
            if not self.is_relentless:
                self._over.wait()
            self._close()

    # What attacks are made of. All raise ConnectionError when the server closes, or when it is over.

    def connect(self) -> None:
        """Connect."""
        self._connect().socket.settimeout(0)

    def open(self, path: str, *headers: str) -> None:
        """Connect, and open a WebSocket."""
        wire = self._connect()
        wire.send(request(path, add=headers))
        head = wire.read_head()
        assert head.startswith(b"HTTP/1.1 101 "), head
        wire.socket.settimeout(0)

    def send(self, data: bytes) -> None:
        """Send, for as long as it takes; if it reads, drop what comes meanwhile."""
        left = memoryview(data)
        while left:
            if self._look(select.POLLOUT, _LOOK_SECONDS) & select.POLLOUT:
                with contextlib.suppress(BlockingIOError):
                    size = self._socket.send(left)
                    self.sent += size
                    left = left[size:]

    def await_answer(self) -> None:
        """Return when something came."""
        while not self._look(0, _LOOK_SECONDS) & select.POLLIN:
            pass

    def hold(self, seconds: float = float("inf")) -> None:
        """Keep the connection, and do nothing else."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._look(0, min(left, _LOOK_SECONDS))

    def trickle(self, data: bytes, *, pause: float = 2.0) -> None:
        """Send byte by byte, with pauses."""
        for at in range(len(data)):
            self.send(data[at : at + 1])
            self.hold(pause)

    def _connect(self) -> Wire:
        wire = self._wire = Wire(self._port, receive_buffer=None if self._attack.reads else _RECEIVE_BUFFER)
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        return wire

    @property
    def _socket(self) -> socket.socket:
        assert self._wire is not None, "connect first"
        return self._wire.socket

    def _look(self, events: int, seconds: float) -> int:
        """Wait for something to happen to the connection, and take what came; return what happened."""
        if self._over.is_set():
            msg = "the attack is over"
            raise ConnectionAbortedError(msg)
        poller = select.poll()
        poller.register(self._socket, events | select.POLLRDHUP | (select.POLLIN if self._attack.reads else 0))
        ((_, happened),) = poller.poll(seconds * 1000) or ((0, 0),)
        if happened & select.POLLIN:
            self._socket.recv(1 << 18)
        if happened & _GONE:
            msg = "the server has closed"
            raise ConnectionResetError(msg)
        return happened

    def _close(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.reset()


class Attackers:
    """So many attackers at once, from entering the context to leaving it."""

    def __init__(self, attack: Attack, port: int, count: int, *, relentless: bool = True) -> None:
        self._over = threading.Event()
        payload = attack.payload()
        self._threads = [Attacker(attack, port, number, payload, self._over) for number in range(count)]
        for one in self._threads:
            one.is_relentless = relentless
        self._publisher = threading.Thread(target=self._publish, args=(port,)) if attack.publishes else None

    @property
    def times(self) -> int:
        """How often one of them has begun."""
        return sum(one.times for one in self._threads)

    @property
    def sent(self) -> int:
        """Bytes that left."""
        return sum(one.sent for one in self._threads)

    def __enter__(self) -> Self:
        for thread in self._all():
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._all():
            thread.join(_END_SECONDS)
            assert not thread.is_alive(), "an attacker does not end"

    def _all(self) -> list[threading.Thread]:
        return [*self._threads, *([self._publisher] if self._publisher else [])]

    def _publish(self, port: int) -> None:
        body = b'"%b"' % (b"x" * _PUBLISHED_SIZE)
        while not self._over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
                while not self._over.wait(_PUBLISH_SECONDS):
                    connection.request("POST", "/push/news", body, {"Content-Type": "application/json"})
                    connection.getresponse().read()


def fill(port: int) -> None:
    """Publish what ``filled`` is to have."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    item = '{"channel":"filled","message":"%s"}' % ("x" * (FILLED_SIZE - 2))
    at_once = 500
    with contextlib.closing(connection):
        for _ in range(FILLED // at_once):
            body = f"[{','.join([item] * at_once)}]"
            connection.request("POST", "/push", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
            assert response.status == http.HTTPStatus.OK, answer[:500]
            assert b'"code"' not in answer, answer[:500]

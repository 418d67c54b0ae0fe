"""nginx in front, with a pool of connections that are kept alive: what one client sends never becomes another's."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
import time
import urllib.request
from collections.abc import Iterator

import pytest

from tests.support.local import LocalServer
from tests.support.nginx import Proxy
from tests.support.reading.corpus import BEHIND, TOPICS, Entry, Message, entries
from tests.support.reading.echo import Echo
from tests.support.server import Server
from tests.support.wire import PATIENCE, Wire

BUFFERED = "    location / { proxy_pass http://abide; }"
DIRECT = "    location / { proxy_pass http://abide; proxy_request_buffering off; }"
DENY = "    location /push { deny all; }\n"
"""Directives of servers of nginx; the last one denies what the application would do."""

LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
VICTIM = b"GET /victim HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer of-the-victim\r\nConnection: close\r\n\r\n"

ROUNDS = 50
"""Attacks of each kind at each of two servers."""

KEY = "a-key-that-must-not-leak"

CHANNELS = """\
backend: memory://
auth: {keys: "${PUSH_KEYS}"}
channels:
  public: {publish: anyone}
  orders: {publish: key}
"""


def exchange(port: int, stream: bytes) -> bytes:
    """Send on a connection of its own, and return what is answered until it is closed, or becomes a WebSocket."""
    with Wire(port) as wire:
        wire.send(stream)
        with contextlib.suppress(ConnectionError, TimeoutError):
            while b"HTTP/1.1 101 " not in wire.received and (data := wire.socket.recv(65536)):
                wire.received += data
        return wire.received


class Front:
    """The application, our server, and nginx before it."""

    def __init__(self, echo: Echo, port: int) -> None:
        self._echo = echo
        self._port = port

    def send(self, stream: bytes) -> tuple[tuple[Message, ...], bytes]:
        """Return what the application was asked meanwhile, and what was answered."""
        answered = exchange(self._port, stream)
        return self._echo.take(), answered


@pytest.fixture(scope="module", params=[BUFFERED, DIRECT], ids=["whole bodies", "bodies as they come"])
def front(request: pytest.FixtureRequest) -> Iterator[Front]:
    """Start both servers; nginx passes bodies on whole, or as they come."""
    logger = logging.getLogger("uvicorn.error")
    before = logger.level
    logger.setLevel(logging.ERROR)
    echo = Echo()
    with LocalServer(echo) as server, Proxy(server.port, request.param) as proxy:
        yield Front(echo, proxy.ports[0])
    logger.setLevel(before)


@pytest.mark.parametrize("topic", TOPICS)
def test_no_request_behind_nginx_is_read_in_two_ways(front: Front, topic: str) -> None:
    """Server reads each message of nginx as one, whatever a client sent, and the next client gets its own answer."""
    wrong = []
    for entry in entries():
        if entry.topic == topic and entry.is_finite:
            seen, answered = front.send(entry.sent + BEHIND + LAST)
            wrong += [f"{entry.name!r}: {what}" for what in mistakes(entry, seen, answered)]
            seen, answered = front.send(VICTIM)
            if len(seen) != 1 or seen[0].target != "/victim" or b"of-the-victim" not in answered:
                wrong.append(f"{entry.name!r}, then another client's request: {seen} {answered!r}"[:1000])
    assert not wrong, f"{len(wrong)} are wrong:\n" + "\n".join(wrong)


def mistakes(entry: Entry, seen: tuple[Message, ...], answered: bytes) -> Iterator[str]:
    """Tell what is wrong with what the application was asked on behalf of one client."""
    ids = [[value for name, value in message.headers if name == "x-request-id"] for message in seen]
    if any(len(one) != 1 for one in ids) or len({one[0] for one in ids if one}) != len(seen):
        yield f"not every message is one of nginx's: {seen}"[:1000]
    if any(b"x-request-id" in message.body.lower() for message in seen):
        yield f"a body holds another request: {seen}"[:1000]
    for message in seen:
        if message.method not in ("HEAD", "WEBSOCKET") and answered.count(json.dumps(message.headers).encode()) != 1:
            yield f"{message} was not answered once: {answered!r}"[:1000]
    got = [(message.method, message.target, message.body) for message in seen]
    # nginx takes "closed" for "close", and with the line that it adds, a request may have too many of them.
    is_whole = got and got[-1][1] == "/last" and not re.search(rb"HTTP/1\.1 [45]", answered)
    if len(entry.verdicts) == 1 and entry.verdicts[0].end == "open" and is_whole:
        expected = [(message.method, message.target, message.body) for message in entry.verdicts[0].messages]
        if got[:-2] != expected:
            yield f"read as {got}, not as {expected}"[:1000]


@pytest.fixture(scope="module")
def product() -> Iterator[tuple[Server, Proxy]]:
    """Start Abide, and nginx before it with four servers."""
    with (
        Server(channels=CHANNELS, env={"PUSH_KEYS": KEY}) as server,
        Proxy(server.port, BUFFERED, DIRECT, DENY + BUFFERED, DENY + DIRECT) as proxy,
    ):
        yield server, proxy


def attack(number: int, inner: bytes) -> list[bytes]:
    """Return the segments of a request for an upgrade whose body ends with ``inner``, in one of many forms.

    Before it come line breaks, which a server skips before a request: nginx passes a large body on in pieces.
    """
    method = ("POST", "GET", "PUT", "DELETE")[number % 4]
    token = ("h2c", "foo", "TLS/1.0")[number % 3]
    path = ("/health/live", "/public/history", "/nowhere")[number // 2 % 3]
    body = b"\r\n" * (0, 100_000, 10_000, 300_000, 50_000)[number % 5] + inner
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {token}\r\n".encode()
    if number // 4 % 2:
        return [head + b"Transfer-Encoding: chunked\r\n\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)]
    return [head + b"Content-Length: %d\r\n\r\n" % len(body), body]


def push(channel: str, body: str, length: int | None = None, *, key: str | None = None) -> bytes:
    """Return a push; ``length`` is what it says of its body. With a key it is the last of its connection."""
    lines = ["Host: x", "Content-Type: text/plain", f"Content-Length: {length or len(body)}"]
    if key:
        lines += [f"Authorization: Bearer {key}", "Connection: close"]
    return "\r\n".join([f"POST /push/{channel} HTTP/1.1", *lines, "", body]).encode()


def history(server: Server, channel: str) -> list[str]:
    with urllib.request.urlopen(f"{server.url}/{channel}/history?limit=1000", timeout=PATIENCE) as answer:  # noqa: S310
        return [str(message["data"]) for message in json.load(answer)["messages"]]


@contextlib.contextmanager
def attacker(port: int, segments: list[bytes]) -> Iterator[socket.socket]:
    """Send the segments, and go on without waiting for the answer's end."""
    with Wire(port) as wire:
        for segment in segments:
            wire.send(segment)
            time.sleep(0.01)  # so that nginx passes on what it has
        yield wire.socket


@pytest.mark.parametrize("which", [0, 1], ids=["whole bodies", "bodies as they come"])
def test_an_upgrade_never_swallows_the_request_of_the_next_client(product: tuple[Server, Proxy], which: int) -> None:
    """No request of another client, with its key, becomes part of a message: 0 of 100 rounds leak."""
    server, proxy = product
    port = proxy.ports[which]
    victim = push("orders", "victim", key=KEY)
    size = len(victim) + len("X-Request-Id: \r\n") + 32 + len("abide") - len("x")  # as nginx passes it on
    stored, public = len(history(server, "orders")), len(history(server, "public"))
    answers = []
    for number in range(ROUNDS):
        with attacker(port, attack(number, push("public", "", size))):
            answers += [exchange(port, victim) for _ in range(3)]
    assert [data for data in history(server, "public")[public:] if KEY in data or "victim" in data] == []
    assert [answer for answer in answers if not answer.startswith(b"HTTP/1.1 200 ")] == []
    assert len(history(server, "orders")) == stored + 3 * ROUNDS


@pytest.mark.parametrize("which", [2, 3], ids=["whole bodies", "bodies as they come"])
def test_an_upgrade_never_carries_a_request_past_nginx(product: tuple[Server, Proxy], which: int) -> None:
    """No push that nginx denies is executed because it is the body of another request: 0 of 100 rounds smuggle."""
    server, proxy = product
    port, public = proxy.ports[which], len(history(server, "public"))
    assert b" 403 " in exchange(port, push("public", "denied", key=KEY))
    for number in range(ROUNDS):
        with attacker(port, attack(number, push("public", f"smuggled {number}"))):
            exchange(port, b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert [data for data in history(server, "public")[public:] if "smuggled" in data or "denied" in data] == []

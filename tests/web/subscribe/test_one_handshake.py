"""One handshake or stream, every way in: the same answer, first messages, and line of the log."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from typing import NamedTuple

import httpx
import pytest

from app.access.auth_settings import TokenSettings
from app.access.tokens import sign
from tests.support.server import SERVE, LogLine, Server
from tests.support.wire import Wire, close, request
from tests.web.conftest import PLAIN

SECRET = "s" * 32
CHANNELS = f"""
backend: memory://
auth: {{keys: "first-key-1", tokens: {{secret: {SECRET}, cookie: session}}}}
origins: ["https://app.example"]
operators: key
channels:
  lebowski: {{publish: anyone, history: {{size: 3}}}}
  keyed: {{subscribe: key}}
  tokens: {{subscribe: token}}
  sealed: {{subscribe: nobody}}
  "chat.{{room}}": {{subscribe: [{{claim: room}}]}}
"""

KEY = "Authorization: Bearer first-key-1"
V1 = "Sec-WebSocket-Protocol: abide.v1"


def token(**claims: object) -> str:
    """Return a token with these claims beside the needed ones."""
    return sign(TokenSettings(secrets=(SECRET.encode(),)), {"exp": int(time.time()) + 6 * 3600, **claims})


GOOD = token(sub="walter", subscribe=["tokens"], room="bowling")
COOKIE = f"Cookie: session={GOOD}"
EXPIRED = token(exp=int(time.time()) - 3600)


class Case(NamedTuple):
    """A handshake, and how it is answered."""

    status: int
    path: str
    headers: tuple[str, ...] = ()
    frames: int = 0
    """How many frames or events come at once."""

    @property
    def request(self) -> bytes:
        """The bytes that are sent."""
        return request(self.path, drop=("Host",), add=("Host: localhost", *self.headers))


CASES = {
    "plain": Case(101, "/lebowski"),
    "abide.v1": Case(101, "/lebowski", (V1,), 1),
    "many channels": Case(101, "/ws", (V1,)),
    "heartbeats": Case(101, "/lebowski?heartbeat=true", (V1,), 2),
    "the newest position": Case(101, "/lebowski?since=@3", (V1,), 1),
    "a position in the history": Case(101, "/lebowski?since=@2", (V1,), 2),
    "a position in the history, plain": Case(101, "/lebowski?since=@1", (), 2),
    "the position before the history": Case(101, "/lebowski?since=@0", (V1,), 4),
    "a position of another log": Case(101, "/lebowski?since=other:1", (V1,), 5),
    "the last one": Case(101, "/lebowski?last=1", (V1,), 2),
    "the earliest": Case(101, "/lebowski?since=earliest", (), 3),
    "a page": Case(101, "/lebowski", ("Origin: https://app.example",)),
    "a page of its own": Case(101, "/lebowski", ("Origin: http://localhost",)),
    "behind a proxy": Case(101, "/lebowski", ("X-Forwarded-For: 192.0.2.7, 198.51.100.9",)),
    "a key": Case(101, "/keyed", (KEY,)),
    "a token": Case(101, "/tokens", (f"Authorization: Bearer {GOOD}",)),
    "a token in a subprotocol": Case(101, "/tokens", (f"{V1}, bearer.{GOOD}",), 1),
    "a claim": Case(101, "/chat.bowling", (f"Authorization: Bearer {GOOD}",)),
    "a token in a cookie": Case(101, "/tokens", (COOKIE,)),
    "a cookie that came along": Case(403, "/tokens", (COOKIE, "Sec-Fetch-Site: cross-site")),
    "a foreign page": Case(403, "/lebowski", ("Origin: https://evil.example",)),
    "no key": Case(401, "/keyed"),
    "a wrong key": Case(401, "/keyed", ("Authorization: Bearer wrong-key-3",)),
    "no token": Case(401, "/tokens"),
    "an expired token": Case(401, "/tokens", (f"Authorization: Bearer {EXPIRED}",)),
    "an expired token where anyone may": Case(401, "/lebowski", (f"Authorization: Bearer {EXPIRED}",)),
    "a claim of another room": Case(403, "/chat.other", (f"Authorization: Bearer {GOOD}",)),
    "a bad ticket": Case(401, "/tokens?ticket=none"),
    "a sealed channel": Case(403, "/sealed"),
    "no channel": Case(404, "/nope"),
    "a bad position": Case(400, "/lebowski?since=nowhere"),
    "a bad number": Case(400, "/lebowski?last=x"),
    "a parameter twice": Case(400, "/lebowski?last=1&last=2"),
    "two credentials": Case(400, "/lebowski", (KEY, "Authorization: Bearer other")),
    "a heartbeat on a plain socket": Case(400, "/lebowski?heartbeat=true"),
    "many channels, plain": Case(400, "/ws"),
    "many channels from a position": Case(400, "/ws?last=1", (V1,)),
    "a bad position where no key was sent": Case(401, "/keyed?since=nowhere"),
}


class Seen(NamedTuple):
    """What can be seen of a handshake: the answer, what came behind it, and the line of the log."""

    status: int
    headers: tuple[bytes, ...]
    body: bytes
    line: LogLine


class Watched:
    """A server with three messages in its history, whose log is watched."""

    def __init__(self, server: Server) -> None:
        self.server = server
        for _ in range(2):
            for number in range(3):
                answer = httpx.post(f"{server.url}/push/lebowski", json=number)
        self.epoch, _, last = answer.json()["position"].partition(":")
        self._first = int(last) - 3

    def hold(self) -> Iterator[Wire]:
        """Subscribe to every channel, and keep them followed: a handshake that has to begin with that goes by ASGI."""
        for name in ("plain", "a key", "a token", "a claim"):
            wire = Wire(self.server.port)
            wire.send(CASES[name].request)
            assert wire.read_head().startswith(b"HTTP/1.1 101 ")
            yield wire

    def of(self, case: Case) -> Case:
        """Return the case with a position of this server."""

        def placed(text: str) -> str:
            return re.sub(r"@(\d)", lambda found: f"{self.epoch}:{self._first + int(found[1])}", text)

        return case._replace(path=placed(case.path), headers=tuple(map(placed, case.headers)))

    def see(self, case: Case, *, cut: bool = False) -> Seen:
        """Send a handshake, and return what can be seen of it, but for what differs from one to the next."""
        logged, data = len(self.server.log), self.of(case).request
        with Wire(self.server.port) as wire:
            if cut:
                wire.send(data[:-3])
                assert not wire.is_closed_within(0.02)
                data = data[-3:]
            wire.send(data)
            lines = wire.read_head().split(b"\r\n")
            status = int(lines[0].split()[1])
            if status == 101:
                body = b"".join(sorted(wire.read_frame()[1] for _ in range(case.frames)))
                wire.send(close(1000))
                wire.read_close()
            else:
                body = wire.read_rest()
        headers = sorted(line.lower() for line in lines[1:] if not line.lower().startswith(_OTHERWISE))
        body = re.sub(rb'"time":\d+', b"", body.replace(self.epoch.encode(), b"@"))
        return Seen(status, tuple(headers), body, self._line(case, logged))

    def see_stream(self, case: Case, body: str) -> Seen:
        """Send a request with a body, read as much as comes at once, and return what can be seen of it."""
        case, logged = self.of(case), len(self.server.log)
        lines = (f"GET {case.path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *case.headers, "")
        with Wire(self.server.port) as wire:
            wire.send("\r\n".join([*lines, body]).encode())
            head = wire.read_head().lower().split(b"\r\n")
            size = next((int(line[16:]) for line in head if line.startswith(b"content-length: ")), 0)
            while wire.received.count(b"\n\n") < case.frames or len(wire.received) < size:
                wire.received += wire.socket.recv(65536)
            received = re.sub(rb'"time":\d+', b"", wire.received.replace(self.epoch.encode(), b"@"))
        headers = sorted(line for line in head[1:] if not line.startswith(b"date: "))
        return Seen(int(head[0].split()[1]), tuple(headers), received, self._line(case, logged, "request"))

    def _line(self, case: Case, logged: int, kind: str = "connection") -> LogLine:
        """Return the one line of a connection that was written after so many others."""
        path = case.path.partition("?")[0]

        def found() -> list[LogLine]:
            return [line for line in self.server.log[logged:] if line.get("path") == path]

        self.server.wait_log(lambda _: bool(found()))
        (line,) = found()
        assert line["event"] == kind
        return {name: value for name, value in line.items() if name not in _OF_ONE}


_OTHERWISE = (b"date: ", b"content-length: ", b"connection: ", b"sec-websocket-accept: ", b"upgrade: ")
"""Headers that say how the answer is sent."""

_OF_ONE = ("timestamp", "pid", "connection_id", "request_id", "ms")
"""Fields of the log that are each connection's own."""


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Watched, Watched]]:
    """Start ours, and the same application under plain uvicorn."""
    with Server(channels=CHANNELS, command=SERVE) as ours, Server(channels=CHANNELS, command=PLAIN) as plain:
        both = Watched(ours), Watched(plain)
        with contextlib.ExitStack() as held:
            for watched in both:
                for wire in watched.hold():
                    held.enter_context(wire)
            yield both


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_way_in_is_answered_the_same(servers: tuple[Watched, Watched], case: Case) -> None:
    """Handshake is answered and logged the same by a new head, a known one, in two parts, and under uvicorn."""
    ours, plain = servers
    new = ours.see(case)
    assert new.status == case.status
    assert ours.see(case) == new, "a known head"
    assert ours.see(case, cut=True) == new, "in two parts"
    assert plain.see(case)._replace(headers=new.headers) == new, "plain uvicorn, which has headers of its own"


STREAM = "Accept: text/event-stream"
STREAMS = {
    "a stream": Case(200, "/lebowski", (STREAM,), 2),
    "heartbeats": Case(200, "/lebowski?heartbeat=true", (STREAM,), 3),
    "a position": Case(200, "/lebowski?since=@2", (STREAM,), 3),
    "the last event": Case(200, "/lebowski", (STREAM, "Last-Event-ID: @1"), 4),
    "a page": Case(200, "/lebowski", (STREAM, "Origin: https://app.example"), 2),
    "a key": Case(200, "/keyed", (STREAM, KEY), 2),
    "a token": Case(200, "/tokens", (STREAM, f"Authorization: Bearer {GOOD}"), 2),
    "a cookie that came along": Case(403, "/tokens", (STREAM, COOKIE, "Sec-Fetch-Site: cross-site")),
    "no key": Case(401, "/keyed", (STREAM,)),
    "a foreign page": Case(403, "/lebowski", (STREAM, "Origin: https://evil.example")),
    "no stream": Case(406, "/lebowski"),
    "a bad position": Case(400, "/lebowski?since=nowhere", (STREAM,)),
    "no channel": Case(404, "/nope", (STREAM,)),
}


@pytest.mark.parametrize("case", STREAMS.values(), ids=STREAMS.keys())
def test_every_stream_is_answered_the_same(servers: tuple[Watched, Watched], case: Case) -> None:
    """Request for an event stream is answered and logged the same at once and by ASGI, where its body has to go."""
    ours, _ = servers
    at_once = ours.see_stream(case, "")
    assert at_once.status == case.status
    assert ours.see_stream(case, "x") == at_once


def test_a_token_that_was_taken_back_opens_nothing_by_a_known_head(servers: tuple[Watched, Watched]) -> None:
    """Handshake with a known head and a known token is refused from the moment when the token was taken back."""
    server = servers[0].server
    raw = token(sub="donny", jti="out-of-his-element", subscribe=["tokens"])
    case = Case(101, "/tokens", (f"Authorization: Bearer {raw}",))
    assert [servers[0].see(case).status for _ in range(2)] == [101, 101]
    headers = {"authorization": "Bearer first-key-1"}
    httpx.post(f"{server.url}/revoke", json={"jti": "out-of-his-element"}, headers=headers).raise_for_status()
    assert servers[0].see(case._replace(status=401)).status == 401


def test_a_known_head_is_judged_by_the_settings_in_force() -> None:
    """Handshake with a known head is refused once a reload has closed the channel to its caller, and opened again."""
    channels = "channels: {lebowski: {subscribe: %s}}\n"
    with Server(channels=channels % "anyone") as server:

        def status() -> bytes:
            with Wire(server.port) as wire:
                wire.send(request("/lebowski"))
                return wire.read_head().split()[1]

        def reload(policy: str) -> None:
            logged = len(server.log)
            server.write_channels(channels % policy)
            server.wait_log(lambda _: any(line["event"] == "config_applied" for line in server.log[logged:]))

        assert [status(), status()] == [b"101", b"101"]
        reload("nobody")
        assert [status(), status()] == [b"403", b"403"]
        reload("anyone")
        assert [status(), status()] == [b"101", b"101"]

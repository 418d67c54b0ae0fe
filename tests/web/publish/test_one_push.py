"""One push, every way in: the same answer, the same counts and the same line of the log."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import httpx
import pytest

from tests.support.metrics import parse
from tests.support.server import SERVE, LogLine, Server
from tests.support.wire import Wire
from tests.web.conftest import CHANNELS, PLAIN

JSON = "content-type: application/json"
TEXT = "content-type: text/plain"
FORM = "content-type: application/x-www-form-urlencoded"
KEY = "authorization: Bearer first-key-1"
OPERATOR = {"authorization": "Bearer first-key-1"}
WRONG = "authorization: Bearer wrong-key-3"
ONE = b'{"channel": "lebowski", "message": [1.0]}'


class Case(NamedTuple):
    """A request, and how it is answered."""

    status: int
    path: str
    headers: tuple[str, ...]
    body: bytes
    method: str = "POST"

    @property
    def request(self) -> bytes:
        """The bytes that are sent."""
        length = f"content-length: {len(self.body)}"
        lines = (f"{self.method} {self.path} HTTP/1.1", "host: localhost", *self.headers, length, "", "")
        return "\r\n".join(lines).encode("latin-1") + self.body


CASES = {
    "an envelope": Case(200, "/push", (JSON,), ONE),
    "a channel": Case(200, "/push/lebowski", (JSON,), b" [1, 2] "),
    "a query": Case(200, "/push/lebowski?a=b", (JSON,), b"1"),
    "text": Case(200, "/push/lebowski", (TEXT,), b"hello"),
    "curl's form": Case(200, "/push", (FORM,), ONE),
    "a key": Case(200, "/push/listen", (JSON, KEY), b"1"),
    "an array": Case(200, "/push", (JSON,), b"[%b, %b]" % (ONE, ONE)),
    "an array of refusals": Case(200, "/push", (JSON,), b'[{"channel": "nope", "message": 1}, {}, %b]' % ONE),
    "an empty array": Case(200, "/push", (JSON,), b"[]"),
    "5 KiB": Case(200, "/push/lebowski", (JSON,), b'"%b"' % (b"x" * 5_000)),
    "an envelope of 40 KiB": Case(200, "/push", (JSON,), b'{"channel": "lebowski", "message": "%b"}' % (b"x" * 40_000)),
    "no key": Case(401, "/push/listen", (JSON,), b"1"),
    "no key for an envelope": Case(401, "/push", (JSON,), b'{"channel": "listen", "message": 1}'),
    "a wrong key": Case(401, "/push/lebowski", (JSON, WRONG), b"1"),
    "a sealed channel": Case(403, "/push/sealed", (JSON, KEY), b"1"),
    "operators only": Case(401, "/push/desk", (JSON,), b"1"),
    "no channel": Case(404, "/push/nope", (JSON,), b"1"),
    "no channel in the envelope": Case(404, "/push", (JSON,), b'{"channel": "nope", "message": 1}'),
    "too large": Case(413, "/push/small", (JSON,), b'"%b"' % (b"x" * 30)),
    "text that grows too large": Case(413, "/push/small", (TEXT,), b'"' * 12),
    "too large in an envelope": Case(413, "/push", (JSON,), b'{"channel": "small", "message": "%b"}' % (b"x" * 30)),
    "another type": Case(415, "/push/lebowski", ("content-type: text/html",), b"1"),
    "a charset": Case(415, "/push/lebowski", (f"{JSON}; charset=latin-1",), b"1"),
    "compressed": Case(415, "/push", (JSON, "content-encoding: gzip"), ONE),
    "a form": Case(415, "/push/lebowski", (FORM,), b"a=1"),
    "text as an envelope": Case(415, "/push", (TEXT,), ONE),
    "no JSON": Case(400, "/push/lebowski", (JSON,), b"{"),
    "a large body that is no JSON": Case(400, "/push/lebowski", (JSON,), b"[" * 100 + b"1," * 10_000),
    "no message": Case(400, "/push", (JSON,), b'{"channel": "lebowski"}'),
    "an unknown member": Case(400, "/push", (JSON,), b'{"channel": "lebowski", "message": 1, "extra": 1}'),
    "no body": Case(400, "/push", (JSON,), b""),
    "a bad key": Case(400, "/push/lebowski", (JSON, "idempotency-key: a b"), b"1"),
    "two keys": Case(400, "/push", (JSON, "idempotency-key: a"), b'{"channel": "lebowski", "message": 1, "key": "b"}'),
    "a key for an array": Case(400, "/push", (JSON, "idempotency-key: a"), b"[%b]" % ONE),
    "two types": Case(400, "/push/lebowski", (JSON, TEXT), b"1"),
    "a bad key for no channel": Case(404, "/push/nope", (JSON, "idempotency-key: a b"), b"1"),
    "a page": Case(200, "/push/lebowski", (JSON, "origin: https://app.example"), b"1"),
    "a page below a wildcard": Case(200, "/push/lebowski", (JSON, "origin: https://a.example.org"), b"1"),
    "a page without an origin": Case(200, "/push/lebowski", (JSON, "origin: null"), b"1"),
    "a page of its own": Case(200, "/push/lebowski", (JSON, "origin: http://localhost"), b"1"),
    "a foreign page": Case(403, "/push/lebowski", (JSON, "origin: https://evil.example"), b"1"),
    "a page that is refused": Case(401, "/push/listen", (JSON, "origin: https://app.example"), b"1"),
    "behind a proxy": Case(200, "/push/lebowski", (JSON, "x-forwarded-for: 192.0.2.7, 198.51.100.9"), b"1"),
    "refused behind a proxy": Case(404, "/push/nope", (JSON, "x-forwarded-for: [2001:db8::7]:81"), b"1"),
    "GET": Case(405, "/push", (JSON,), b"", "GET"),
    "HEAD": Case(405, "/push/lebowski", (JSON,), b"", "HEAD"),
    "PUT": Case(405, "/push/lebowski", (JSON,), b"1", "PUT"),
    "another path": Case(404, "/pushed", (JSON,), b"1", "PUT"),
}


class Seen(NamedTuple):
    """What can be seen of a request: the answer, the line of the log and what was counted."""

    status: int
    headers: tuple[bytes, ...]
    body: bytes
    line: LogLine
    refused: Counter[str]


class Watched:
    """A server whose log and counts are watched."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._counted = self._refusals()

    def see(self, wire: Wire, case: Case, send: Callable[[], None]) -> Seen:
        """Send a request, and return what can be seen of it, but for what differs from one push to the next."""
        logged = len(self.server.log)
        send()
        lines = wire.read_head().lower().split(b"\r\n")
        size = int(next(line for line in lines if line.startswith(b"content-length: "))[16:])
        while case.method != "HEAD" and len(wire.received) < size:
            wire.received += wire.socket.recv(65536)
        body, wire.received = wire.received, b""
        counted, self._counted = self._counted, self._refusals()
        return Seen(
            int(lines[0].split()[1]),
            tuple(sorted(line for line in lines[1:] if not line.startswith(_OTHERWISE))),
            _PLACE.sub(b"", body),
            self._line(case.path.partition("?")[0], logged, size),
            self._counted - counted,
        )

    def _line(self, path: str, logged: int, size: int) -> LogLine:
        """Return the one line of a request that was written after so many others."""
        self.server.wait_log(lambda _: any(line.get("path") == path for line in self.server.log[logged:]))
        (line,) = [line for line in self.server.log[logged:] if line.get("path") == path]
        assert line["bytes"] == size
        return {name: value for name, value in line.items() if name not in _OF_ONE}

    def _refusals(self) -> Counter[str]:
        """Return how many pushes were refused, by code."""
        samples = parse(httpx.get(f"{self.server.url}/metrics", headers=OPERATOR).text)
        return Counter({name: int(count) for name, count in samples.items() if "push_refused" in name})


_OTHERWISE = (b"date: ", b"content-length: ", b"connection: ")
"""Headers that say how the answer is sent."""

_OF_ONE = ("timestamp", "pid", "request_id", "ms", "bytes")
"""Fields of the log that are each request's own."""

_PLACE = re.compile(rb'"position": ".*?"|"offset": \d+|"epoch": ".*?"')


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Watched, Watched]]:
    """Start ours, and the same application under plain uvicorn."""
    with Server(channels=CHANNELS, command=SERVE) as ours, Server(channels=CHANNELS, command=PLAIN) as plain:
        yield Watched(ours), Watched(plain)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_way_in_is_answered_the_same(servers: tuple[Watched, Watched], case: Case) -> None:
    """Push is answered, counted and logged the same by a new head, a known one, in two parts, and under uvicorn."""
    ours, plain = servers
    cut = case.request.index(b"\r\n\r\n") + (4 if case.body else 3)
    with Wire(ours.server.port) as wire, Wire(ours.server.port) as divided, Wire(plain.server.port) as other:
        new = ours.see(wire, case, lambda: wire.send(case.request))
        assert new.status == case.status
        assert ours.see(wire, case, lambda: wire.send(case.request)) == new, "a known head"
        assert ours.see(divided, case, lambda: send_apart(divided, case.request, cut)) == new, "in two parts"
        assert plain.see(other, case, lambda: other.send(case.request)) == new, "plain uvicorn"


def send_apart(wire: Wire, request: bytes, cut: int) -> None:
    """Send a request in two parts, the second when there was time to read the first."""
    wire.send(request[:cut])
    assert not wire.is_closed_within(0.02)
    wire.send(request[cut:])


KEYS = "auth: {keys: [%s]}\nchannels: {listen: {}}\n"


def test_a_key_is_revoked_between_two_pushes_with_the_same_head() -> None:
    """Push with a known head is refused as soon as a reload has taken its key away, and taken when it is back."""
    case = Case(200, "/push/listen", (JSON, KEY), b"1")
    with Server(channels=KEYS % "first-key-1") as server, Wire(server.port) as wire:

        def push() -> bytes:
            wire.send(case.request)
            head = wire.read_head()
            size = int(head.lower().partition(b"content-length: ")[2].split()[0])
            while len(wire.received) < size:
                wire.received += wire.socket.recv(4096)
            wire.received = b""
            return head.split()[1]

        def reload(keys: str) -> None:
            logged = len(server.log)
            server.write_channels(KEYS % keys)
            server.wait_log(lambda _: any(line["event"] == "config_applied" for line in server.log[logged:]))

        assert [push(), push()] == [b"200", b"200"]
        reload("second-key-2")
        assert [push(), push()] == [b"401", b"401"]
        reload("second-key-2, first-key-1")
        assert [push(), push()] == [b"200", b"200"]

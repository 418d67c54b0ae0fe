"""Pushes past ASGI: answered as the ASGI application does, or left to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
import structlog

from app.core.channel import Access, Channel, Registry
from app.core.delivery.hub import Hub
from app.core.errors import KeyReusedError, OutcomeUnknownError, OverloadedError, UnavailableError
from app.core.message import Position, Published, Record
from app.core.ports import UNMETERED, Head, Outcome
from app.web.edge.access import AccessLog
from app.web.edge.auth import Authenticator
from app.web.operate.health import ConfigState, Health
from app.web.routes import Edge, Routes

KEY = ("authorization", "Bearer k")
JSON = ("content-type", "application/json")
FORM = ("content-type", "application/x-www-form-urlencoded")
STORED = Published(Position("e", 7))
REPLAYED = Published(Position("e", 7), replayed=True)

Headers = list[tuple[str, str]]


class Log:
    """A publisher that stores nothing: every record gets the same outcome, or is refused at once."""

    def __init__(self, outcome: Outcome, *, at_once: bool = False) -> None:
        self.records: list[Record] = []
        self._outcome = outcome
        self._at_once = at_once

    def publish(self, records: Sequence[Record]) -> asyncio.Future[list[Outcome]]:
        if self._at_once and isinstance(self._outcome, Exception):
            raise self._outcome
        self.records += records
        future = asyncio.get_running_loop().create_future()
        future.set_result([self._outcome] * len(records))
        return future


def routes(log: Log) -> Routes:
    channels = Channel("open", publish=Access.ANYONE), Channel("orders"), Channel("few", max_message_size=3)
    registry = Registry(channels, Channel("defaults"))
    source: Any = log
    health = Health(source, lambda: ConfigState(hash="", error=None))
    hub = Hub(source, registry)
    authenticator = Authenticator((b"k",), ("https://app.example",))
    return Routes(Edge(registry, authenticator, log, source, hub, health, UNMETERED, None, "0"))


async def by_asgi(log: Log, path: str, headers: Headers, body: bytes) -> tuple[int, Headers, bytes]:
    transport = httpx.ASGITransport(AccessLog(routes(log)))
    async with httpx.AsyncClient(transport=transport, base_url="http://abide") as client:
        answer = await client.post(path, headers=headers, content=body)
    return answer.status_code, sorted(answer.headers.multi_items()), answer.content


async def directly(log: Log, path: str, headers: Headers, body: bytes) -> tuple[int, Headers, bytes] | None:
    answered = asyncio.get_running_loop().create_future()
    head = Head(path, [(name.encode(), value.encode()) for name, value in headers])
    if not routes(log).direct(head, "192.0.2.1", body, lambda *answer: answered.set_result(answer)):
        return None
    status, raw, content = await answered
    length = ("content-length", str(len(content)))
    return status, sorted([length, *((name.decode(), value.decode()) for name, value in raw)]), content


@pytest.mark.parametrize("outcome", [STORED, REPLAYED], ids=["stored", "replayed"])
@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("/push", [JSON], b'{"channel": "open", "message": [1.0]}'),
        ("/push", [KEY, JSON], b' {"key": "a", "message": "\xc3\xa9" , "channel": "orders"}'),
        ("/push/open", [JSON, ("idempotency-key", "a")], b"1 "),
        ("/push/orders", [KEY, ("content-type", "text/plain")], b"hello"),
        ("/push/orders", [KEY, FORM], b"[1]"),
        ("/push/open", [JSON, ("origin", "https://app.example")], b"1"),
        ("/push/open", [JSON, ("origin", "http://abide"), ("host", "abide")], b"1"),
    ],
    ids=["envelope", "envelope with a key", "named", "text", "a form that is none", "a page", "a page of its own"],
)
async def test_a_direct_push_publishes_what_asgi_publishes(
    path: str, headers: Headers, body: bytes, outcome: Published
) -> None:
    """Push past ASGI publishes the same record as one through it, and its answer is the same."""
    logs = Log(outcome), Log(outcome)
    expected = await by_asgi(logs[0], path, headers, body)
    assert expected[0] == 200
    assert await directly(logs[1], path, headers, body) == expected
    assert logs[0].records == logs[1].records
    assert len(logs[1].records) == 1


@pytest.mark.parametrize(
    "error", [KeyReusedError("used"), UnavailableError("away"), OverloadedError("full"), OutcomeUnknownError("lost")]
)
async def test_a_direct_push_that_fails_is_the_same_problem(error: KeyReusedError | UnavailableError) -> None:
    """Push past ASGI that fails to be stored is answered with the same problem and headers."""
    expected = await by_asgi(Log(error), "/push/open", [JSON], b"1")
    assert expected[0] in (409, 503)
    assert await directly(Log(error), "/push/open", [JSON], b"1") == expected


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("/push", [JSON], b"[]"),
        ("/push", [JSON], b"{}"),
        ("/push", [JSON], b'{"channel": "open", "message": 1, "extra": 1}'),
        ("/push", [("content-type", "text/plain")], b'{"channel": "open", "message": 1}'),
        ("/push", [JSON, ("idempotency-key", "a")], b'{"channel": "open", "message": 1, "key": "b"}'),
        ("/push/none", [JSON], b"1"),
        ("/push/orders", [JSON], b"1"),
        ("/push/few", [KEY, JSON], b"1234"),
        ("/push/open", [JSON], b"{"),
        ("/push/open", [("content-type", "application/json; charset=latin-1")], b"1"),
        ("/push/open", [JSON, ("idempotency-key", "a b")], b"1"),
        ("/push/open", [JSON, ("origin", "https://evil.example")], b"1"),
        ("/push/open", [("content-type", "text/plain"), ("origin", "null")], b"1"),
        ("/push/open", [JSON, ("authorization", "Bearer x")], b"1"),
        ("/push/open", [FORM], b"a=1"),
        ("/push/open", [FORM, ("referer", "https://evil.example/")], b"[1]"),
        ("/push", [FORM], b"channel=open&message=1"),
        ("/pushed", [JSON], b"1"),
        ("/other", [JSON], b"1"),
    ],
)
async def test_a_refused_or_plural_push_is_left_to_asgi(path: str, headers: Headers, body: bytes) -> None:
    """Request that is refused, or has several messages, is left to the ASGI application, and publishes nothing."""
    log = Log(STORED)
    assert await directly(log, path, headers, body) is None
    assert log.records == []


async def test_a_push_refused_by_a_full_queue_is_left_to_asgi() -> None:
    """Push that is refused at once is left to the ASGI application."""
    assert await directly(Log(OverloadedError("full"), at_once=True), "/push/open", [JSON], b"1") is None


async def test_a_head_that_comes_again_is_read_once() -> None:
    """Head that comes again is read once, and each body is judged by it."""
    log = Log(STORED)
    direct = routes(log).direct
    head = Head("/push/orders", [(b"authorization", b"Bearer k"), (b"content-type", b"application/json")])
    wrong = Head("/push/orders", [(b"authorization", b"Bearer x"), (b"content-type", b"application/json")])
    taken = [direct(one, None, body, lambda *_: None) for one in (head, wrong) for body in (b"1", b"{", b"2")]
    assert taken == [True, False, True, False, False, False]
    assert [record.data for record in log.records] == [b"1", b"2"]


async def test_a_direct_push_is_logged_as_any_other() -> None:
    """Push past ASGI is logged as one through it, apart from its id, its client and its time."""
    with structlog.testing.capture_logs() as logged:
        await by_asgi(Log(STORED), "/push/open", [JSON], b"1")
        await directly(Log(STORED), "/push/open", [JSON], b"1")
    asgi, direct = ({**line, "request_id": "", "ms": 0.0, "client": ""} for line in logged)
    assert list(asgi) == list(direct)
    assert asgi == direct
    assert direct["bytes"] == len(b'{"channel": "open", "position": "e:7", "offset": 7, "epoch": "e"}')

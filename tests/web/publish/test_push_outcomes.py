"""What becomes of a push when its message is stored, is not, or a bug is met: by ASGI and past it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
import structlog

from app.access.auth_settings import AuthSettings
from app.core.channel import Channel, Registry
from app.core.delivery.hub import Hub
from app.core.errors import AbideError, KeyReusedError, OutcomeUnknownError, OverloadedError, UnavailableError
from app.core.message import Position, Published, Record
from app.core.ports import UNMETERED, Outcome, Reply
from app.core.rights.policy import Access, Policy
from app.web.edge.access import AccessLog
from app.web.edge.auth import Authenticator
from app.web.operate.health import ConfigState, Health
from app.web.publish.direct_push import DirectPush
from app.web.routes import Edge, Routes
from app.wire.request_head import parse

STORED = Published(Position("e", 7))
REPLAYED = Published(Position("e", 7), replayed=True)
ERRORS = [KeyReusedError("used"), UnavailableError("away"), OverloadedError("full"), OutcomeUnknownError("lost")]
REQUESTS = {
    "a channel": ("/push/open", b"1"),
    "an envelope": ("/push", b'{"channel": "open", "message": 1}'),
    "a large body": ("/push/open", b'"%b"' % (b"x" * 9_000)),
}
"""Paths and bodies; an array tells of each item by itself."""

Answered = tuple[int, dict[str, str], bytes]


class Log:
    """A publisher that stores nothing: every record gets the same outcome.

    An error is told as the outcome; ``at_once`` raises it, ``late`` lets what is waited for fail.
    """

    def __init__(self, outcome: Outcome | Exception, *, at_once: bool = False, late: bool = False) -> None:
        self.records: list[Record] = []
        self._outcome: Any = outcome
        self._at_once = at_once
        self._late = late

    def publish(self, records: Sequence[Record]) -> asyncio.Future[list[Outcome]]:
        if self._at_once:
            raise self._outcome
        self.records += records
        future = asyncio.get_running_loop().create_future()
        if self._late:
            future.set_exception(self._outcome)
        else:
            future.set_result([self._outcome] * len(records))
        return future


def routes(log: Log) -> Routes:
    registry = Registry((Channel("open", publish=Policy((Access.ANYONE,))),), Channel("defaults"))
    source: Any = log
    health = Health(source, lambda: ConfigState(hash="", error=None))
    return Routes(
        Edge(registry, Authenticator(AuthSettings()), log, source, Hub(source, registry), health, UNMETERED, None, "0")
    )


async def by_asgi(log: Log, path: str, body: bytes, *headers: str) -> Answered:
    transport = httpx.ASGITransport(AccessLog(routes(log)))
    named = {"content-type": "application/json"} | dict(header.split(": ") for header in headers)
    async with httpx.AsyncClient(transport=transport, base_url="http://abide") as client:
        answer = await client.post(path, headers=named, content=body)
    return answer.status_code, without_length(answer.headers.multi_items()), answer.content


async def past_asgi(log: Log, path: str, body: bytes, *headers: str) -> Answered:
    serving = routes(log)
    direct = DirectPush(None, "", lambda: serving.pushes)
    lines = (f"POST {path} HTTP/1.1", "host: abide", "content-type: application/json", *headers, "", "")
    request_head = parse("\r\n".join(lines).encode())
    assert request_head is not None
    answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    head = direct.parse(request_head)
    assert head is not None
    direct(head, "192.0.2.1", body, lambda *reply: answered.set_result(Reply(*reply)))
    status, raw, content = await answered
    return status, without_length([(name.decode(), value.decode()) for name, value in raw]), content


def without_length(headers: list[tuple[str, str]]) -> dict[str, str]:
    return {name: value for name, value in headers if name != "content-length"}


@pytest.mark.parametrize("outcome", [STORED, REPLAYED, *ERRORS], ids=repr)
@pytest.mark.parametrize(("path", "body"), REQUESTS.values(), ids=REQUESTS.keys())
async def test_an_outcome_is_answered_the_same(path: str, body: bytes, outcome: Outcome) -> None:
    """Push publishes the same record by ASGI and past it, and is answered the same, stored or not."""
    logs = Log(outcome), Log(outcome)
    expected = await by_asgi(logs[0], path, body, "idempotency-key: a")
    assert await past_asgi(logs[1], path, body, "idempotency-key: a") == expected
    assert logs[0].records == logs[1].records
    assert len(logs[1].records) == 1
    assert (expected[0] == 200) == isinstance(outcome, Published)
    assert ("idempotency-replayed" in expected[1]) == (outcome is REPLAYED)


@pytest.mark.parametrize("way", [by_asgi, past_asgi])
@pytest.mark.parametrize(("path", "body"), REQUESTS.values(), ids=REQUESTS.keys())
async def test_a_full_queue_is_answered_once(path: str, body: bytes, way: Any) -> None:  # noqa: ANN401 — one of two
    """Push that is refused by the queue itself is answered with 503 and when to come again."""
    status, headers, _ = await way(Log(OverloadedError("full"), at_once=True), path, body)
    assert (status, headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize("way", [by_asgi, past_asgi])
@pytest.mark.parametrize(
    "log",
    [
        lambda: Log(ZeroDivisionError("a bug"), at_once=True),
        lambda: Log(ZeroDivisionError("a bug"), late=True),
        lambda: Log(ZeroDivisionError("a bug")),
    ],
    ids=["at once", "late", "as an outcome"],
)
@pytest.mark.parametrize(("path", "body"), REQUESTS.values(), ids=REQUESTS.keys())
async def test_a_bug_is_logged_once_and_answered_once(path: str, body: bytes, log: Any, way: Any) -> None:  # noqa: ANN401
    """Push that meets a bug is answered with one 500, and the log has one trace, with the request's id."""
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as logged:
        status, headers, content = await way(log(), path, body)
    assert (status, headers["content-type"]) == (500, "application/problem+json")
    assert AbideError.code in content.decode()
    failed, line = logged
    assert (failed["event"], failed["request_id"]) == ("push_failed", line["request_id"])
    assert isinstance(failed["exc_info"], Exception)
    assert (line["event"], line["status"]) == ("request", 500)

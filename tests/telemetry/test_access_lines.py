"""Access lines: rendered once and remembered, and yet the same lines as all others."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from app.telemetry import MASK, configure_logging
from app.web.edge.access import AccessLog, Known

REQUEST = {"type": "http", "method": "POST", "path": "/push/news", "client": ("10.0.0.9", 1), "root_path": ""}
SOCKET = {"type": "websocket", "path": "/news", "client": ("10.0.0.9", 1), "root_path": ""}
BODY = {"type": "http.response.body", "body": "four"}
REFUSAL = {"type": "http.response.body", "body": '{"type":"urn:abide:problem:unknown_channel"}'}


def started(status: int) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status}


def requested(path: str) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    return REQUEST | {"path": path}, [started(200), BODY]


CASES: dict[str, tuple[Mapping[str, Any], list[dict[str, Any]]]] = {
    "a push": requested("/push/news"),
    "a refusal": (REQUEST, [started(404), REFUSAL]),
    "no answer": (REQUEST, []),
    "no client": (REQUEST | {"client": None}, [started(200), BODY]),
    "a connection": (SOCKET, [{"type": "websocket.send"}, {"type": "websocket.close", "code": 4403, "reason": "no"}]),
    "a handshake that is refused": (
        SOCKET,
        [{"type": "websocket.http.response.start", "status": 404}, REFUSAL | {"type": "websocket.http.response.body"}],
    ),
    "percent": requested("/100%s/%d"),
    "not ASCII": requested("/é\u2028\U0001f600"),
    "quotes": requested("/\"'\\\n\x1b"),
    "half a pair": requested("/\ud800"),
    "long": requested("/" + "x" * 5000),
    "a value": requested("/token=hunter2"),
    "credentials": requested("/Bearer hunter2"),
    "a member": requested('/"password": "hunter2"'),
    "a URL": requested("/postgres://me:hunter2@db"),
    "a secret as a reason": (SOCKET, [{"type": "websocket.close", "code": 1011, "reason": "secret=hunter2"}]),
    "a secret as a client": (REQUEST | {"client": ("key=hunter2", 1)}, [started(200)]),
    "a secret as a method": (REQUEST | {"method": "bearer.hunter2"}, [started(200)]),
}


async def nothing(*_: object) -> Any:  # noqa: ANN401 — whatever ASGI awaits
    """Do nothing: the other side of an application that is not looked at."""


def main(cases: list[tuple[dict[str, Any], list[dict[str, Any]]]], level: str) -> None:
    """Log each case twice, and then once more with something bound, as any event is logged."""

    async def app(scope: Any, _: Any, send: Any) -> None:  # noqa: ANN401 — ASGI's
        for message in scope["messages"]:
            await send(message | ({"body": message["body"].encode()} if "body" in message else {}))
        if scope["is_bound"]:
            structlog.contextvars.bind_contextvars(region="fra")

    async def log_all() -> None:
        for (scope, messages), is_bound in itertools.product(cases, (False, False, True)):
            answered: Any = AccessLog(app)(scope | {"messages": messages, "is_bound": is_bound}, nothing, nothing)
            await asyncio.create_task(answered)

    configure_logging("json", level)
    asyncio.run(log_all())
    child = os.fork()
    if child == 0:
        asyncio.run(log_all())
    else:
        os.waitpid(child, 0)


def logged(*names: str, level: str = "info", **cases: Any) -> list[dict[str, Any]]:  # noqa: ANN401 — as CASES has them
    """Return the lines of a process with these cases, three each, and those of a process that was forked from it."""
    script = f"from {__name__} import main; import json, sys; main(json.load(sys.stdin), {level!r})"
    given = json.dumps([*map(CASES.__getitem__, names), *cases.values()])
    command = [sys.executable, "-c", script]
    process = subprocess.run(command, input=given, capture_output=True, text=True, check=True, timeout=30)
    assert process.stderr == ""
    assert process.stdout.isascii()
    return [json.loads(line) for line in process.stdout.splitlines()]


@pytest.fixture(scope="module")
def all_lines() -> tuple[float, list[dict[str, Any]]]:
    """Return the lines of all cases, and when they were begun."""
    return time.time(), logged(*CASES)


async def test_the_number_and_length_of_remembered_access_lines_is_bounded() -> None:
    """Access lines are remembered up to a number, and with the part of the path that is logged."""
    with structlog.testing.capture_logs() as lines:
        for number in range(600):
            await AccessLog(nothing)({**REQUEST, "path": f"/{number}".ljust(5000, "x")}, nothing, nothing)
    assert len(lines) == 600
    remembered = [one for one in gc.get_objects() if type(one) is Known]  # isinstance asks dead proxies
    assert 0 < len(remembered) <= 500
    assert all(len(str(one.fields["path"])) <= 1024 for one in remembered)


_OF_ONE = {"timestamp", "request_id", "connection_id", "ms", "pid"}
"""Fields that are each line's own."""


@pytest.mark.parametrize("case", CASES)
def test_an_access_line_is_written_as_any_event(case: str, all_lines: tuple[float, list[dict[str, Any]]]) -> None:
    """Access line has the fields of an event, in the same order, whether it is the first of its form or not."""
    number = 3 * list(CASES).index(case)
    first, again, event = all_lines[1][number : number + 3]
    assert event.pop("region") == "fra"
    assert list(first) == list(again) == list(event)
    for line in (first, again, event):
        assert len(line[f"{line['event']}_id"]) == 16
        assert isinstance(line["ms"], float)
    assert first[f"{first['event']}_id"] != again[f"{again['event']}_id"]
    shared = [{name: value for name, value in line.items() if name not in _OF_ONE} for line in (first, again, event)]
    assert shared[0] == shared[1] == shared[2]


def test_an_access_line_has_its_fields_in_order(all_lines: tuple[float, list[dict[str, Any]]]) -> None:
    """Access line begins as every line does; then come what was asked, the outcome, and how long it took."""
    line = all_lines[1][3]
    assert list(line) == [
        *("timestamp", "level", "logger", "event", "pid", "request_id"),
        *("method", "path", "status", "code", "client", "ms", "bytes"),
    ]
    assert (line["status"], line["code"], line["bytes"]) == (404, "unknown_channel", len(REFUSAL["body"]))


def test_no_access_line_has_a_secret(all_lines: tuple[float, list[dict[str, Any]]]) -> None:
    """Access line has no secret, wherever a client puts it, in the first line nor in those after it."""
    text = json.dumps(all_lines[1])
    assert "hunter2" not in text
    assert text.count(MASK) == 7 * 3 * 2


def test_each_process_logs_its_own_id_and_the_time(all_lines: tuple[float, list[dict[str, Any]]]) -> None:
    """Access line has the time in order, and its own process's id after a fork, though the rest is remembered."""
    begun, lines = all_lines
    parent, child = lines[: len(lines) // 2], lines[len(lines) // 2 :]
    assert len({line["pid"] for line in parent}) == len({line["pid"] for line in child}) == 1
    assert parent[0]["pid"] != child[0]["pid"]
    times = [datetime.fromisoformat(line["timestamp"]).timestamp() for line in lines]
    assert times == sorted(times)
    assert begun < times[0] <= times[-1] < time.time()
    assert all(datetime.fromisoformat(line["timestamp"]).tzinfo is UTC for line in lines)


@pytest.mark.parametrize(("level", "expected"), [("debug", ["info", "debug"]), ("info", ["info"]), ("warning", [])])
def test_an_access_line_below_the_level_is_not_written(level: str, expected: list[str]) -> None:
    """Access line is written from its level on: a success that nobody asks about is for debugging."""
    lines = logged("a push", level=level, probe=requested("/health/live"))
    levels = [line["level"] for line in lines if line["logger"] == "app.access"]
    assert levels[::3] == expected * 2

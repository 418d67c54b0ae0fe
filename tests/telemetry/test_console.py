"""Log lines as a person reads them at a terminal."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from structlog import DropEvent

from app.telemetry.console import Console, is_news


def line(event: str, *, level: str = "info", logger: str = "app", **fields: Any) -> str:  # noqa: ANN401 — any event
    """Return the line of one event, as a new process shows it."""
    return Console()(None, level, base(event, level=level, logger=logger, **fields))


def base(event: str, *, level: str = "info", logger: str = "app", **fields: Any) -> dict[str, Any]:  # noqa: ANN401 — as above
    """Return an event with what every line has."""
    return {"timestamp": "…", "level": level, "logger": logger, "event": event, "pid": 7, **fields}


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("request", {"method": "GET", "path": "/", "status": 200, "ms": 0.9, "bytes": 119}, "GET / 200 0.9 ms 119 B"),
        ("request", {"method": "POST", "path": "/push", "status": 404, "code": "unknown_channel", "ms": 1, "bytes": 9},
            "POST /push 404 unknown_channel 1 ms 9 B"),
        ("request", {"method": "GET", "path": "/", "status": 200, "ms": 9, "bytes": 10**5}, "GET / 200 9 ms 97.7 KiB"),
        ("request", {"method": "GET", "path": "/a", "status": 200, "ms": 61e3, "messages": 2},
            "GET /a 200 1 min 1 s 2 messages"),
        ("request", {"method": "GET", "path": "/a", "ms": 3723e3, "bytes": 2**21}, "GET /a 1 h 2 min 2.0 MiB"),
        ("connection", {"path": "/ws", "close_code": 4403, "close_reason": "no\n", "ms": 1500.0, "messages": 1},
            "WebSocket /ws closed with 4403 1.5 s 1 message (no\\n)"),
        ("connection", {"path": "/ws", "status": 404, "ms": 0.2, "messages": 0}, "WebSocket /ws 404 0.2 ms 0 messages"),
        ("request", {"method": "GET", "path": "/\x1b[2J\u202e", "ms": 1, "bytes": 1}, "GET /\\x1b[2J\\u202e 1 ms 1 B"),
    ],
)  # fmt: skip
def test_a_request_or_a_connection_is_one_line(kind: str, fields: dict[str, Any], expected: str) -> None:
    """Request or connection is one line: what was asked, the outcome, the time, and how much was sent."""
    assert line(kind, logger="app.access", request_id="9f86", client="10.0.0.9", **fields) == expected


def test_an_event_is_told_with_its_words_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Event shows its level if it is a warning or worse, its name, its words, its fields, and lists below."""
    monkeypatch.setenv("NO_COLOR", "1")
    said = line("bad_row", level="warning", channel="news", offset=7, detail="news is skipped")
    assert said == "warning: bad_row: news is skipped (offset 7)"
    assert line("log_went_back", level="error", had=9, common=7) == "error: log_went_back (had 9, common 7)"
    assert line("config_applied", added=["a", "b"], removed=[]) == "config_applied\n  added: a\n  added: b"
    assert line("failed", level="error", exception="Traceback:\n  x\x1b") == "error: failed\nTraceback:\n  x\\x1b"
    assert line("config_warning", level="warning", detail="anyone may") == "warning: anyone may"


def test_what_is_no_news_is_not_shown() -> None:
    """Start, a warning that was shown before it, and a first connection are no news; a return of the database is."""
    console = Console()
    assert len(console.warn(["old"])) == 1

    def shown(event: str, **fields: Any) -> bool:  # noqa: ANN401 — any event
        try:
            console(None, "", base(event, **fields))
        except DropEvent:
            return False
        return True

    assert not shown("config_warning", level="warning", detail="old")
    assert shown("config_warning", level="warning", detail="new")
    assert not shown("listening")
    assert not shown("file_opened")
    assert not shown("serving")
    assert shown("config_warning", level="warning", detail="old")
    assert shown("listener_lost", level="warning", reason="away")
    assert shown("listening")
    assert not shown("listening")


@pytest.mark.parametrize(
    ("name", "level", "expected"),
    [
        ("gunicorn.error", logging.INFO, False),
        ("uvicorn.error", logging.INFO, False),
        ("uvicorn.error", logging.WARNING, True),
        ("library", logging.INFO, True),
    ],
)
def test_steps_of_the_servers_libraries_are_no_news(name: str, level: int, expected: bool) -> None:  # noqa: FBT001
    """Steps of gunicorn and uvicorn are no news; their warnings are, and an application's address."""
    assert is_news(logging.LogRecord(name, level, "", 0, "told", (), None)) is expected
    assert is_news(logging.LogRecord(name, level, "", 0, "Uvicorn running on %s", (), None))

"""Log lines: one shape for all who write, and no secrets."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from app.telemetry import MASK, configure_logging, mask_secrets

LOGGERS = ("", "gunicorn.error", "gunicorn.access", "uvicorn.error", "uvicorn.access", "py.warnings")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Undo what a test does to the logging of this process."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(log, log.handlers, log.filters[:], log.level, log.propagate) for log in loggers]
    configured, configuration = structlog.is_configured(), structlog.get_config()
    yield
    for log, handlers, filters, level, propagate in before:
        log.handlers, log.filters, log.propagate = handlers, filters, propagate
        log.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    if configured:  # loggers that have been used keep its processors, where later tests look for their lines
        structlog.configure(**configuration)


def masked(**fields: Any) -> Any:  # noqa: ANN401 — any log line
    """Return the fields as they would be logged."""
    return mask_secrets(None, "info", fields)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return what was logged; fail unless all of it is JSON lines on stdout."""
    captured = capsys.readouterr()
    assert captured.err == ""
    return [json.loads(line) for line in captured.out.splitlines()]


@pytest.mark.parametrize("name", ["app", "asyncio", "gunicorn.error", "gunicorn.access", "uvicorn.error"])
def test_every_loggers_line_has_one_shape(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Line of any logger, ours or a library's, is written once and has one shape."""
    configure_logging("json", "info")
    logging.getLogger(name).warning("%s at %d\n", "hello", 7)
    structlog.get_logger(name).warning("hello at 7", channel="news")
    foreign, own = lines(capsys)
    assert own.pop("channel") == "news"
    assert list(foreign) == list(own) == ["timestamp", "level", "logger", "event", "pid"]
    assert foreign["event"] == own["event"] == "hello at 7"
    assert (foreign["logger"], foreign["level"]) == (own["logger"], own["level"]) == (name, "warning")
    assert foreign["timestamp"].endswith("Z")


def test_a_line_carries_the_bound_context(capsys: pytest.CaptureFixture[str]) -> None:
    """Line carries what the request has bound, a library's line too."""
    configure_logging("json", "info")
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        logging.getLogger("library").error("hello")
    assert lines(capsys)[0]["request_id"] == "r1"


def test_configuring_twice_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    """Configuring again replaces the first configuration: level and handlers."""
    configure_logging("json", "debug")
    configure_logging("json", "warning")
    logging.getLogger("library").info("quiet")
    structlog.get_logger("app").info("quiet")
    logging.getLogger("uvicorn.error").error("loud")
    assert [line["event"] for line in lines(capsys)] == ["loud"]


@pytest.mark.parametrize("kind", ["stdlib", "structlog"])
def test_a_traceback_is_inside_its_line(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Traceback stands inside its line, without local variables and with secrets masked."""
    configure_logging("json", "info")
    hidden = "in a variable"
    logger = logging.getLogger("x") if kind == "stdlib" else structlog.get_logger("x")
    try:
        int(f"postgres://me:hunter2@{hidden[3]}")
    except ValueError:
        logger.exception("failed")
    (line,) = lines(capsys)
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("'postgres://me:***@a'")
    assert hidden not in line["exception"]
    assert "exc_info" not in line


def test_a_python_warning_becomes_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Python warning becomes a line."""
    configure_logging("json", "info")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    (line,) = lines(capsys)
    assert line["logger"] == "py.warnings"
    assert "DeprecationWarning: old" in line["event"]


def test_uvicorns_access_lines_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    """Access lines of uvicorn are not written: they would carry the query string."""
    configure_logging("json", "debug")
    logging.getLogger("uvicorn.access").info("GET /news?token=hunter2")
    logging.getLogger("uvicorn.error").info('%s - "WebSocket %s" [accepted]', "127.0.0.1", "/news?token=hunter2")
    assert not logging.getLogger("uvicorn.access").hasHandlers()
    assert lines(capsys) == []


def test_the_console_format_is_text_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Console format is text for people, with secrets masked and without colours outside a terminal."""
    configure_logging("console", "info")
    structlog.get_logger("app").info("told", password="hunter2", channel="news")
    text = capsys.readouterr().out
    assert "told" in text
    assert "channel news" in text
    assert "hunter2" not in text
    assert "\x1b" not in text


def test_the_format_is_json_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Format is JSON by itself where stdout is not a terminal."""
    configure_logging(None, "info")
    logging.getLogger("app").info("hello")
    assert lines(capsys)[0]["event"] == "hello"


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "Authorization",
        "password",
        "db_password",
        "secret",
        "TOKEN_SECRET",
        "token",
        "key",
        "push_keys",
    ],
)
def test_a_field_named_like_a_secret_is_masked(name: str) -> None:
    """Field named like a secret is masked, whatever it holds, at any depth."""
    assert masked(**{name: "hunter2"}) == {name: MASK}
    assert masked(headers=[{name: ["hunter2"]}]) == {"headers": [{name: MASK}]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgres://abide:hunter2@db/abide", "postgres://abide:***@db/abide"),
        ("postgres://abide:hun/t?e#r@2@db/abide", "postgres://abide:***@db/abide"),
        ("redis://:hunter2@cache:6379", "redis://:***@cache:6379"),
        ("https://me:hunter2@example.org/a?mail=b@c", "https://me:***@example.org/a?mail=b@c"),
        ("GET /news?since=1&token=hunter2&last=5", "GET /news?since=1&token=***&last=5"),
        ("host=db password='hunter2' user=me", "host=db password='***' user=me"),
        ("{'password': 'hunter2', 'user': 'me'}", "{'password': '***', 'user': 'me'}"),
        ("(b'authorization', b'Bearer hunter2')", "(b'authorization', b'Bearer ***')"),
        ("abide.v1, bearer.hunter2.a-b_c", "abide.v1, bearer.***"),
        ("got eyJhbGciOiJub25lIn0.eyJzdWIiOiJtZSJ9.c2ln here", "got *** here"),
    ],
)
def test_a_value_that_looks_like_a_secret_is_masked(text: str, expected: str) -> None:
    """Value that looks like a secret is masked, in any field, as bytes and inside other objects too."""
    assert masked(event=text) == {"event": expected}
    assert masked(raw=text.encode()) == {"raw": expected}
    assert masked(error=ValueError(text)) == {"error": expected}


@pytest.mark.parametrize(
    "value",
    [
        "http://localhost:8000/news/history?since=abc:1&mail=a@b",
        "config/channels.yaml:4:10: channels.news.history: must be a mapping",
        "takes messages only with a key: send 'Authorization: Bearer <key>'",
        "monkey business",
        17,
        0.5,
        None,
        True,
    ],
)
def test_a_value_without_a_secret_is_left_alone(value: object) -> None:
    """Value without a secret is left as it is."""
    assert masked(event=value, keyboard=value, has_key=True) == {"event": value, "keyboard": value, "has_key": True}


async def test_the_lines_of_one_turn_are_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of one turn of the event loop are one write at its end, and a library's line does not overtake them."""

    class Written(io.StringIO):
        def write(self, text: str) -> int:
            pieces.append(text)
            return len(text)

    pieces: list[str] = []
    configure_logging("json", "info")
    monkeypatch.setattr(sys, "stdout", Written())
    log = structlog.get_logger("app")
    log.info("one")
    log.info("two")
    assert pieces == []
    await asyncio.sleep(0)
    log.info("three")
    logging.getLogger("library").error("four")
    events = [[json.loads(line)["event"] for line in piece.splitlines()] for piece in pieces]
    assert events == [["one", "two"], ["three", "four"]]


async def test_no_line_is_lost_between_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Line of any thread is written once and in its thread's order, while the loop writes what others have said."""
    configure_logging("json", "info")
    written = io.StringIO()
    monkeypatch.setattr(sys, "stdout", written)
    log = structlog.get_logger("app")

    def tell(thread: int) -> None:
        for number in range(500):
            log.info("told", thread=thread, number=number)

    threads = [asyncio.create_task(asyncio.to_thread(tell, thread)) for thread in range(4)]
    while not all(thread.done() for thread in threads):
        log.info("turned")
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    told = [line for line in map(json.loads, written.getvalue().splitlines()) if line["event"] == "told"]
    for thread in range(4):
        assert [line["number"] for line in told if line["thread"] == thread] == list(range(500))


async def test_a_log_that_cannot_be_written_keeps_nobody_from_being_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Line that cannot be written is dropped: the disk is full, or a pipe or a terminal is gone."""
    configure_logging("json", "info")
    log = structlog.get_logger("app")
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: ASYNC230, PTH123 — a device
        monkeypatch.setattr(sys, "stdout", full)
        log.info("lost")
        await asyncio.sleep(0)
        await asyncio.to_thread(log.info, "lost")
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()


@pytest.mark.parametrize("end", ["raise SystemExit", "raise RuntimeError", "loop.stop()", "return"])
def test_the_last_line_is_written_whatever_ends_the_process(end: str) -> None:
    """Line that waits for the turn's end is written whatever ends the loop or the process meanwhile."""
    script = f"""
import asyncio, structlog
from app.telemetry import configure_logging
configure_logging("json", "info")
async def main():
    loop = asyncio.get_running_loop()
    structlog.get_logger("app").info("last words")
    {end}
asyncio.run(main())
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30)
    assert [json.loads(line)["event"] for line in process.stdout.splitlines()] == ["last words"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"path": '/"', "method": "G'"}, {"path": '/"', "method": "G'"}),
        ({"why": '{"token": "hunter2"}'}, {"why": '{"token": "***"}'}),
        ({"why": "token=hunter2"}, {"why": "token=***"}),
        ({"raw": b"Bearer hunter2"}, {"raw": "Bearer ***"}),
        ({"headers": {"cookie": "hunter2"}}, {"headers": {"cookie": MASK}}),
        ({"headers": [("cookie", "Bearer hunter2")]}, {"headers": [["cookie", "Bearer ***"]]}),
        ({"push_key": "hunter2", "ms": 0.5}, {"push_key": MASK, "ms": 0.5}),
        ({"error": ValueError("postgres://me:hunter2@db")}, {"error": "postgres://me:***@db"}),
        ({"found": {"hunter"}}, {"found": ["hunter"]}),
    ],
)
def test_no_line_has_a_secret_however_it_was_made(
    fields: dict[str, Any], expected: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Line as it is written has no secret, by whichever way it was made."""
    configure_logging("json", "info")
    structlog.get_logger("app").info("told", **fields)
    (line,) = lines(capsys)
    assert {name: line[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(2**64, 2**64), ("\ud800", "\ud800"), ({1: "one"}, {"1": "one"}), (ValueError("x"), "x"), ("é\u2028", "é\u2028")],
    ids=["large integer", "half a pair", "name that is no string", "any object", "not ASCII"],
)
def test_any_value_becomes_one_line_of_ascii(
    value: object, expected: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """Line is written whatever its values are, and is one line of ASCII."""
    configure_logging("json", "info")
    structlog.get_logger("app").info("x", value=value)
    out = capsys.readouterr().out
    assert out.isascii()
    (line,) = out.splitlines()
    assert json.loads(line)["value"] == expected

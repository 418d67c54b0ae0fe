"""Log lines for a person at a terminal: one short line each, without what only programs need."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from structlog import DropEvent
from structlog.typing import EventDict, WrappedLogger

_NOT_SHOWN = frozenset({
    "timestamp", "level", "logger", "event", "pid", "request_id", "connection_id", "exception", "stack",
})  # fmt: skip
"""Fields that are shown elsewhere in the line, or that serve only programs."""

_SENTENCES = ("detail", "reason")
"""Fields that say in words what happened."""

_COLOURS = {"warning": "33", "error": "31", "critical": "31"}
_LIBRARIES = ("gunicorn.", "uvicorn.")
_LOST = ("not_listening", "listener_lost", "file_not_open", "file_lost")
_FOUND = ("listening", "file_opened")

_BYTES_IN_FULL = 10_000
_KIB = 1024
_SECOND, _MINUTE, _HOUR = 1000, 60_000, 3_600_000


class Console:
    """Makes the lines. It leaves out what is no news: that a server starts, and what was said before it started."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        """Warnings that this process, or the one it was forked from, has shown; until it serves."""
        self._was_lost = False
        """Whether the loss of the database or the file was shown, so that its return is news."""

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> str:
        """Return the line of an event whose secrets are masked. Raises :class:`structlog.DropEvent` if it has none."""
        name, level = event["event"], event["level"]
        if event["logger"] == "app.access" and name in ("request", "connection"):
            return printable(_access(name, event))
        if level == "info" and not self._is_news(name):
            raise DropEvent
        self._was_lost |= name in _LOST
        if name == "config_warning":
            if event["detail"] in self._told:
                raise DropEvent
            return warning(event["detail"])
        return _word(level) + "\n".join([_headline(name, event), *_lists(event), *_traceback(event)])

    def warn(self, warnings: Iterable[str]) -> list[str]:
        """Return the lines of warnings, which are not shown again before the server serves."""
        self._told.update(warnings := list(warnings))
        return [warning(text) for text in warnings]

    def _is_news(self, name: str) -> bool:
        if name == "serving":
            self._told.clear()
            return False
        if name in _FOUND:
            was_lost, self._was_lost = self._was_lost, False
            return was_lost
        return True


def is_news(record: logging.LogRecord) -> bool:
    """Whether a library's line is for a person: the server's libraries tell of each step that they take."""
    # Where Abide is mounted in an application, nobody else tells its address.
    is_step = record.name.startswith(_LIBRARIES) and not str(record.msg).startswith("Uvicorn running on ")
    return record.levelno > logging.INFO or not is_step


def warning(text: str) -> str:
    """Return a warning as one line."""
    return f"{_word('warning')}{printable(text)}"


def printable(text: object) -> str:
    """Return a value on one line, with an escape for whatever could move the cursor or colour the terminal."""
    text = str(text)
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def has_colours() -> bool:
    """Whether stdout is a terminal that shows colours, and nobody objects (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _word(level: str) -> str:
    """Return how a line of a level begins."""
    if level not in _COLOURS:
        return ""
    word = "warning" if level == "warning" else "error"
    return f"\x1b[{_COLOURS[level]}m{word}:\x1b[0m " if has_colours() else f"{word}: "


def _access(kind: str, event: EventDict) -> str:
    """Return ``POST /push 200 0.9 ms 119 B``; a connection has the code and the reason that it was closed with."""
    words = [event.get("method", "WebSocket" if kind == "connection" else ""), event["path"]]
    if "status" in event:
        words += [event["status"], event.get("code", "")]
    if "close_code" in event:
        words.append(f"closed with {event['close_code']}")
    words.append(_duration(event["ms"]))
    words.append(_size(event["bytes"]) if "bytes" in event else _count(event["messages"], "message"))
    if event.get("close_reason"):
        words.append(f"({event['close_reason']})")
    return " ".join(str(word) for word in words if word != "")


def _headline(name: str, event: Mapping[str, Any]) -> str:
    """Return the event, what it says in words, and its other fields."""
    text = ": ".join([name, *(str(event[field]) for field in _SENTENCES if event.get(field))])
    shown = {field: value for field, value in event.items() if field not in _NOT_SHOWN and field not in _SENTENCES}
    fields = [
        f"{field} {value}"
        for field, value in shown.items()
        if not isinstance(value, list | dict) and not (isinstance(value, str) and value in text)
    ]
    return printable(f"{text} ({', '.join(fields)})" if fields else text)


def _lists(event: Mapping[str, Any]) -> Iterable[str]:
    for field, value in event.items():
        if isinstance(value, dict | list):
            items = value if isinstance(value, list) else [f"{name}: {item}" for name, item in value.items()]
            yield from (f"  {field}: {printable(item)}" for item in items)


def _traceback(event: Mapping[str, Any]) -> Iterable[str]:
    for field in ("exception", "stack"):
        if field in event:
            yield from (printable(line) for line in str(event[field]).splitlines())


def _duration(ms: float) -> str:
    if ms < _SECOND:
        return f"{ms} ms"
    if ms < _MINUTE:
        return f"{ms / _SECOND:.1f} s"
    if ms < _HOUR:
        return f"{ms // _MINUTE:.0f} min {ms % _MINUTE / _SECOND:.0f} s"
    return f"{ms // _HOUR:.0f} h {ms % _HOUR // _MINUTE:.0f} min"


def _size(count: int) -> str:
    if count < _BYTES_IN_FULL:
        return f"{count} B"
    return f"{count / _KIB:.1f} KiB" if count < _KIB * _KIB else f"{count / _KIB / _KIB:.1f} MiB"


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"

"""Log lines.

Every line of the process goes through one handler on stdout: those of the application (structlog),
uvicorn, gunicorn's master and libraries. In JSON each line is one object, tracebacks included, with
``timestamp`` (ISO 8601, UTC), ``level``, ``logger``, ``event``, ``pid`` and whatever else was bound.
:mod:`app.telemetry.console` makes the lines for a terminal.
Secrets are masked on the way out.
"""

from __future__ import annotations

import asyncio
import atexit
import io
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache

import orjson
import structlog
from gunicorn.config import Config
from gunicorn.glogging import Logger
from structlog.typing import EventDict, Processor, WrappedLogger

from app.telemetry.console import Console, is_news

MASK = "***"
"""Replaces a secret in a log line."""

_OWN_HANDLERS = ("gunicorn.error", "gunicorn.access", "uvicorn.error")
"""Loggers that do not propagate, and so need the handler themselves."""

_SECRET_NAME = re.compile(r"(?i)(?:^|[_\-.])(?:authorization|cookie|passw(?:or)?d|secret|token|jwt|key)s?$")

# In order: a URL's password (a backend's may hold any character, a web address's ends at its
# path); name=value of queries and reprs; "name": "value" of dicts; credentials; bare JWTs.
_SECRET_TEXT = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?i)((?<!http)(?<!https)(?<!ws)(?<!wss)://[^\s/:@]*:)\S*@", rf"\1{MASK}@"),
        (r"(?i)((?:http|ws)s?://[^\s/:@]*:)[^\s/?#]*@", rf"\1{MASK}@"),
        (r"(?i)((?:passw(?:or)?d|secret|token|jwt|key|ticket)s?=[\"']?)[^\s&\"'#;,)]+", rf"\1{MASK}"),
        (r"(?im)^([<>] (?:[a-z]+-)?(?:authorization|cookie): ).*", rf"\1{MASK}"),  # as websockets logs headers
        (
            r"(?i)((?:authorization|cookie|passw(?:or)?d|secret|token|jwt|key)s?[\"']\s*:\s*b?[\"'])[^\"']+",
            rf"\1{MASK}",
        ),
        (r"(?i)\b(bearer[ .])[\w.~+/=-]+", rf"\1{MASK}"),
        (r"\beyJ[\w-]+\.[\w-]+\.[\w-]+", MASK),
    )
)


def configure_logging(log_format: str | None, level: str) -> None:
    """Send every log line of this process to stdout.

    ``log_format`` is ``json`` or ``console``; None means console if stdout is a terminal.
    ``level`` is the lowest level that is written: ``debug`` … ``critical``. A second call replaces
    the setup of the first.
    """
    _stdout.is_for_people = log_format == "console" or (log_format is None and sys.stdout.isatty())
    if _stdout.is_for_people and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal need not know every letter
    render: list[Processor] = [mask_secrets, _console] if _stdout.is_for_people else [_masked_json]
    number = logging.getLevelNamesMapping()[level.upper()]
    handler = logging.StreamHandler(_stdout)
    handler.setFormatter(_formatter(render))
    if _stdout.is_for_people and number > logging.DEBUG:
        handler.addFilter(is_news)
    _install(handler, number)
    # Our own lines take the same steps, but bypass `logging`, which costs more than all the steps
    # together, for each request.
    structlog.configure(
        processors=[*_COLLECT, *render],
        logger_factory=_Lines,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        cache_logger_on_first_use=True,
    )


def announce(*lines: str) -> None:
    """Write lines to a person, if the log is for people: they are no events."""
    if _stdout.is_for_people:
        _stdout.write("".join(f"{line}\n" for line in lines))


def announce_warnings(warnings: Iterable[str]) -> None:
    """Show warnings to a person before workers start, so that each is shown once, however many workers there are."""
    if _stdout.is_for_people and logging.getLogger().isEnabledFor(logging.WARNING):
        announce(*_console.warn(warnings))


class GunicornLogger(Logger):
    """Sends the lines of gunicorn's master through the handler of :func:`configure_logging`."""

    def setup(self, cfg: Config) -> None:
        """Replace the handlers that gunicorn installs, at start and on each of its reloads."""
        super().setup(cfg)
        root = logging.getLogger()
        for log in (self.error_log, self.access_log):
            log.handlers = list(root.handlers)
            log.setLevel(root.level)


class _Stdout:
    """Writes lines in order; the lines of one turn of the event loop go out together at its end.

    A system call for each line costs more than the line itself. Lines that are left when the loop stops
    are written with the next line, or when the process exits, even by an exception.
    """

    def __init__(self) -> None:
        self.is_for_people = False
        """Whether lines are for a person at a terminal."""
        self._waiting: list[str] = []
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that will call flush
        atexit.register(self.flush)

    def write(self, text: str) -> None:
        """Take whole lines."""
        with self._lock:
            self._waiting.append(text)
            if self._loop is not None and self._loop.is_running():
                return
            try:  # only once a turn: CPython 3.11 makes a system call for it
                self._loop = asyncio.get_running_loop()
            except RuntimeError:
                self.flush()
            else:
                self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write the lines that wait."""
        with self._lock:
            text, self._waiting, self._loop = "".join(self._waiting), [], None
            if text:
                try:
                    sys.stdout.write(text)
                    sys.stdout.flush()
                except OSError:
                    pass  # a terminal or a pipe that is gone, or a full disk, keeps nobody from being served


_stdout = _Stdout()
_console = Console()


class _Lines:
    """Writes finished lines to stdout; ``name`` is what ``get_logger`` was given."""

    def __init__(self, name: str) -> None:
        self.name = name

    def msg(self, line: str) -> None:
        """Write one line."""
        _stdout.write(line + "\n")

    debug = info = warning = warn = error = exception = critical = fatal = log = msg


def mask_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace secrets in an event at any depth: by the names of fields, and by what values look like."""
    return {name: _masked(name, value) for name, value in event.items()}


def _masked(name: object, value: object) -> object:  # noqa: PLR0911 — a table of types
    if value is None or value is True or value is False:
        return value
    if type(name) is str and _is_secret(name):
        return MASK
    if type(value) is str:
        return _mask_text(value)
    if isinstance(value, int | float):
        return value
    if isinstance(value, Mapping):
        return {key: _masked(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked(None, item) for item in value]
    return _mask_text(value.decode(errors="replace") if isinstance(value, bytes) else str(value))


@lru_cache(maxsize=1000)
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _mask_text(text: str) -> str:
    if not (_is_suspicious(text) or "'" in text or '"' in text):
        return text
    for pattern, replacement in _SECRET_TEXT:
        text = pattern.sub(replacement, text)
    return text


def _install(handler: logging.Handler, level: int) -> None:
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _OWN_HANDLERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    # uvicorn writes access lines as soon as this logger has a handler. The application writes its
    # own, without the query string. The same goes for the lines of uvicorn's WebSockets.
    access = logging.getLogger("uvicorn.access")
    access.handlers, access.propagate = [], False
    logging.getLogger("uvicorn.error").addFilter(_is_not_access)
    logging.captureWarnings(capture=True)


def _is_not_access(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(
        ('%s - "WebSocket %s"', "connection open", "connection closed", "connection rejected")
    )


def _formatter(render: list[Processor]) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_COLLECT,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *render,
        ],
    )


def _masked_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    """Do what ``mask_secrets`` and ``json.dumps`` do, but mask only lines that may need it: masking is costly.

    A line needs no masking if its fields are flat and have harmless names, and no text in it starts like a
    secret. A backslash gives away a quote inside a value.
    """
    if _are_harmless(tuple(event)):
        line = _encode(event)
        if not (line.find("{", 1) > 0 or "[" in line or '\\"' in line or "'" in line or _is_suspicious(line)):
            return line
    return _encode(mask_secrets(_, __, event))


def _encode(event: Mapping[str, object]) -> str:
    """Return a line in ASCII, which every reader takes for text on one line."""
    try:
        line = orjson.dumps(event, default=str).decode()
    except orjson.JSONEncodeError:  # names that are not strings, integers over 64 bits, lone surrogates
        return _encode_anything(event)
    return line if line.isascii() else _encode_anything(event)


_encode_anything = json.JSONEncoder(default=str, separators=(",", ":")).encode


@lru_cache(maxsize=1000)
def _are_harmless(names: tuple[str, ...]) -> bool:
    return not any(map(_is_secret, names))


def _is_suspicious(text: str) -> bool:
    """Whether one of the patterns could match, except the one that needs a quote."""
    if "://" in text or "=" in text or "eyJ" in text:
        return True
    lower = text.lower()
    return "bearer" in lower or "authorization" in lower


class _Process:
    """This process's id, read once: a system call for each line costs too much."""

    def __init__(self) -> None:
        self.look()
        os.register_at_fork(after_in_child=self.look)

    def look(self) -> None:
        self.id = os.getpid()


_process = _Process()


class _Clock:
    """Tells the time in ISO 8601, UTC; it formats each second only once."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def now(self) -> str:
        second, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._text}.{nanoseconds // 1000:06d}Z"


_clock = _Clock()


_stack_info = structlog.processors.StackInfoRenderer()


def _tracebacks(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Turn a traceback into a string, not a structure, so that local variables stay out of it."""
    if "exc_info" in event or "stack_info" in event:
        event = structlog.processors.format_exc_info(logger, method, _stack_info(logger, method, event))
    return event


def _begin(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Put the fields of every line first; strip the line breaks that end some of uvicorn's messages."""
    record = event.get("_record")
    first = {
        "timestamp": _clock.now(),
        "level": _LEVELS.get(method, method),
        "logger": record.name if record is not None else logger.name,
        "event": str(event["event"]).strip(),
        "pid": _process.id,
    }
    return {**first, **event, **first}


_LEVELS = {"warn": "warning", "exception": "error"}
"""Levels whose name differs from their method's."""

_COLLECT: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    _tracebacks,
    _begin,
]

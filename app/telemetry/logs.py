"""Log lines.

Every line of the process goes through one handler on stdout, whoever wrote it: the application
(structlog), uvicorn, gunicorn's master or a library. As JSON each is one object on one line,
tracebacks included, with ``timestamp`` (ISO 8601, UTC), ``level``, ``logger``, ``event``, ``pid``
and whatever else the writer bound. Secrets are masked on the way out.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Mapping
from functools import lru_cache

import orjson
import structlog
from gunicorn.config import Config
from gunicorn.glogging import Logger
from structlog.typing import EventDict, Processor, WrappedLogger

MASK = "***"
"""What stands in a log line where a secret was."""

_OWN_HANDLERS = ("gunicorn.error", "gunicorn.access", "uvicorn.error")
"""Loggers that do not propagate, so that the handler must stand on them too."""

_SECRET_NAME = re.compile(r"(?i)(?:^|[_\-.])(?:authorization|cookie|passw(?:or)?d|secret|token|jwt|key)s?$")

# In order: a URL's password (a backend's may hold any character, a web address's ends at its
# path); name=value of queries and reprs; "name": "value" of dicts; credentials; bare JWTs.
_SECRET_TEXT = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?i)((?<!http)(?<!https)(?<!ws)(?<!wss)://[^\s/:@]*:)\S*@", rf"\1{MASK}@"),
        (r"(?i)((?:http|ws)s?://[^\s/:@]*:)[^\s/?#]*@", rf"\1{MASK}@"),
        (r"(?i)((?:passw(?:or)?d|secret|token|jwt|key)s?=[\"']?)[^\s&\"'#;,)]+", rf"\1{MASK}"),
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
    ``level`` is the least that is written: ``debug`` … ``critical``. Calling it again replaces
    what an earlier call set up.
    """
    if log_format is None:
        log_format = "console" if sys.stdout.isatty() else "json"
    render = _console() if log_format == "console" else _json()
    number = logging.getLevelNamesMapping()[level.upper()]
    handler = logging.StreamHandler(_stdout)
    handler.setFormatter(_formatter(render))
    _install(handler, number)
    # Our own lines take the same steps, but not the way round through `logging`: it costs more
    # than all of them together, once for each request.
    structlog.configure(
        processors=[*_COLLECT, *render],
        logger_factory=_Lines,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        cache_logger_on_first_use=True,
    )


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
    """Writes lines in order; those of one turn of an event loop in one piece, at its end.

    A system call for each line costs more than the line. What is left when the loop stops is written
    with the next line, or when the process exits, whether by an exception or not.
    """

    def __init__(self) -> None:
        self._waiting: list[str] = []
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that is to call flush
        atexit.register(self.flush)

    def write(self, text: str) -> None:
        """Take whole lines."""
        with self._lock:
            self._waiting.append(text)
            if self._loop is not None and self._loop.is_running():
                return
            try:  # only once in a turn: CPython 3.11 asks the system for the process's id each time
                self._loop = asyncio.get_running_loop()
            except RuntimeError:
                self.flush()
            else:
                self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what was taken."""
        with self._lock:
            text, self._waiting, self._loop = "".join(self._waiting), [], None
            if text:
                sys.stdout.write(text)
                sys.stdout.flush()


_stdout = _Stdout()


class _Lines:
    """Writes finished lines to stdout; ``name`` is what ``get_logger`` was given."""

    def __init__(self, name: str) -> None:
        self.name = name

    def msg(self, line: str) -> None:
        """Write one line."""
        _stdout.write(line + "\n")

    debug = info = warning = warn = error = exception = critical = fatal = log = msg


def mask_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace secrets in an event, by the names of fields and by the looks of values, at any depth."""
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
    # uvicorn writes an access line as soon as this logger has a handler; the application writes
    # its own, without the query string. The same goes for the lines that uvicorn's WebSockets write.
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


def _json() -> list[Processor]:
    return [_masked_json]


def _console() -> list[Processor]:
    plain = structlog.dev.plain_traceback
    return [mask_secrets, structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), exception_formatter=plain)]


def _masked_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    """Do what ``mask_secrets`` and ``json.dumps`` do; mask only what may need it, for that costs twice the rest.

    A line is looked at whole: of flat fields with harmless names, without anything that a secret's
    looks begin with. A quote inside a value is known by its backslash.
    """
    if _are_harmless(tuple(event)):
        line = _encode(event)
        if not (line.find("{", 1) > 0 or "[" in line or '\\"' in line or "'" in line or _is_suspicious(line)):
            return line
    return _encode(mask_secrets(_, __, event))


def _encode(event: Mapping[str, object]) -> str:
    """Write a line in ASCII, which whatever reads it takes for text and for one line."""
    try:
        line = orjson.dumps(event, default=str).decode()
    except orjson.JSONEncodeError:  # names that are no strings, integers of more than 64 bits, half a surrogate pair
        return _encode_anything(event)
    return line if line.isascii() else _encode_anything(event)


_encode_anything = json.JSONEncoder(default=str, separators=(",", ":")).encode


@lru_cache(maxsize=1000)
def _are_harmless(names: tuple[str, ...]) -> bool:
    return not any(map(_is_secret, names))


def _is_suspicious(text: str) -> bool:
    """Whether any of the patterns could match, but for that which needs a quote."""
    return "://" in text or "=" in text or "eyJ" in text or "bearer" in text.lower()


class _Process:
    """This process's id, asked for once: a system call for each line is felt."""

    def __init__(self) -> None:
        self.look()
        os.register_at_fork(after_in_child=self.look)

    def look(self) -> None:
        self.id = os.getpid()


_process = _Process()


class _Clock:
    """Tells the time in ISO 8601, UTC; the seconds are put into words once each."""

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
    """Put tracebacks into words: a string, not a structure, so that local variables stay out of it."""
    if "exc_info" in event or "stack_info" in event:
        event = structlog.processors.format_exc_info(logger, method, _stack_info(logger, method, event))
    return event


def _begin(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Put in front what every line has; strip the line breaks that uvicorn ends some messages with."""
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
"""What is not called like its method."""

_COLLECT: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    _tracebacks,
    _begin,
]

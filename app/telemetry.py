"""What the server says about itself: log lines. A leaf that knows nothing of the other rooms.

Every line of the process goes through one handler on stdout, whoever wrote it: the application
(structlog), uvicorn, gunicorn's master or a library. As JSON each is one object on one line,
tracebacks included, with ``timestamp`` (ISO 8601, UTC), ``level``, ``logger``, ``event``, ``pid``
and whatever else the writer bound. Secrets are masked on the way out.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from functools import lru_cache

import structlog
from gunicorn.config import Config
from gunicorn.glogging import Logger
from structlog.typing import EventDict, Processor, WrappedLogger

MASK = "***"
"""What stands in a log line where a secret was."""

_OWN_HANDLERS = ("gunicorn.error", "gunicorn.access", "uvicorn.error")
"""Loggers that do not propagate, so that the handler must stand on them too."""

_FIRST = ("timestamp", "level", "logger", "event", "pid")

_SECRET_NAME = re.compile(r"(?i)(?:^|[_\-.])(?:authorization|cookie|passw(?:or)?d|secret|token|jwt|key)s?$")

# What every pattern below needs: most texts have none of it, and are passed at the cost of one search.
_SUSPICIOUS = re.compile(r"://|=|[\"']\s*:|(?i:bearer)|eyJ")

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
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_formatter(render))
    _install(handler, number)
    # Our own lines take the same steps, but not the way round through `logging`: it costs more
    # than all of them together, once for each request.
    structlog.configure(
        processors=[*_COLLECT, *_FINISH, *render],
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


class _Lines:
    """Writes finished lines to stdout; ``name`` is what ``get_logger`` was given."""

    def __init__(self, name: str) -> None:
        self.name = name

    def msg(self, line: str) -> None:
        """Write one line, in one piece."""
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    debug = info = warning = warn = error = exception = critical = fatal = log = msg


def mask_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace secrets in an event, by the names of fields and by the looks of values, at any depth."""
    return {name: _masked(name, value) for name, value in event.items()}


def _masked(name: object, value: object) -> object:  # noqa: PLR0911 — a table of types
    if value is None or value is True or value is False:
        return value
    if type(name) is str and _is_secret(name):
        return MASK
    if type(value) is str:  # most are, and a line is written for each request
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
    if not _SUSPICIOUS.search(text):
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
            *_FINISH,
            *render,
        ],
    )


def _json() -> list[Processor]:
    return [_ordered, structlog.processors.JSONRenderer()]


def _console() -> list[Processor]:
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), exception_formatter=plain)]


def _ordered(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {name: event[name] for name in _FIRST if name in event} | dict(event)


def _clean(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Add the process, and strip the line breaks that uvicorn ends some messages with."""
    event.update(event=str(event["event"]).strip(), pid=_process.id)
    return event


class _Process:
    """This process's id, asked for once: a system call for each line is felt."""

    def __init__(self) -> None:
        self.look()
        os.register_at_fork(after_in_child=self.look)

    def look(self) -> None:
        self.id = os.getpid()


_process = _Process()


def _add_name(logger: WrappedLogger, _: str, event: EventDict) -> EventDict:
    """Add the logger's name, ours or a foreign one's."""
    record = event.get("_record")
    event["logger"] = record.name if record is not None else logger.name
    return event


_COLLECT: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    _add_name,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
    _clean,
]

_FINISH: list[Processor] = [
    # A string, not a structure: local variables, which may be secrets, stay out of it.
    structlog.processors.format_exc_info,
    mask_secrets,
]

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
import logging
import sys
import threading
from collections.abc import Iterable
from threading import get_ident

import structlog
from gunicorn.config import Config
from gunicorn.glogging import Logger
from structlog.typing import EventDict, Processor, WrappedLogger

from app.telemetry.console import Console, is_news
from app.telemetry.json_lines import AccessLogger, masked_json
from app.telemetry.masking import mask_secrets
from app.telemetry.origin import clock, process

_OWN_HANDLERS = ("gunicorn.error", "gunicorn.access", "uvicorn.error")
"""Loggers that do not propagate, and so need the handler themselves."""


def configure_logging(log_format: str | None, level: str) -> None:
    """Send every log line of this process to stdout.

    ``log_format`` is ``json`` or ``console``; None means console if stdout is a terminal.
    ``level`` is the lowest level that is written: ``debug`` … ``critical``. A second call replaces
    the setup of the first.
    """
    _stdout.is_for_people = log_format == "console" or (log_format is None and sys.stdout.isatty())
    if _stdout.is_for_people and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal need not know every letter
    render: list[Processor] = [mask_secrets, _console] if _stdout.is_for_people else [masked_json]
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
        wrapper_class=type("Logger", (AccessLogger, structlog.make_filtering_bound_logger(number)), {"least": number}),
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
        self._home: tuple[asyncio.AbstractEventLoop | None, int] = None, 0
        """The loop that wrote last, and its thread."""
        self._is_due = False
        """Whether that loop will call flush."""
        atexit.register(self.flush)

    def write(self, text: str) -> None:
        """Take whole lines. Any thread may call it: it looks who will write only when the text is there to be found."""
        self._waiting.append(text)
        loop, thread = self._home
        if loop is None or not loop.is_running() or (not self._is_due and get_ident() != thread):
            self._look()
        elif not self._is_due:
            self._is_due = True
            loop.call_soon(self.flush)

    def _look(self) -> None:
        """Find out which loop runs here: CPython 3.11 makes a system call for it. Without one, write at once."""
        with self._lock:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                self.flush()
            else:
                self._home, self._is_due = (loop, get_ident()), True
                loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write the lines that wait."""
        with self._lock:
            self._is_due = False
            count = len(self._waiting)
            text = "".join(self._waiting[:count])
            del self._waiting[:count]  # in place, because another thread may be about to add to it
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

    write = staticmethod(_stdout.write)

    def msg(self, line: str) -> None:
        """Write one line."""
        _stdout.write(line + "\n")

    debug = info = warning = warn = error = exception = critical = fatal = log = msg


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
        "timestamp": clock.now(),
        "level": _LEVELS.get(method, method),
        "logger": record.name if record is not None else logger.name,
        "event": str(event["event"]).strip(),
        "pid": process.id,
    }
    return {**first, **event, **first}


_LEVELS = {"warn": "warning", "exception": "error"}
"""Levels whose name differs from their method's."""

_COLLECT: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    _tracebacks,
    _begin,
]

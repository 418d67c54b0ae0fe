"""Log lines as JSON: any event, and the access line, whose form is fixed."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextvars import copy_context
from functools import lru_cache
from typing import Protocol

import orjson
from structlog import BoundLoggerBase
from structlog.contextvars import get_contextvars
from structlog.typing import EventDict, Processor, WrappedLogger

from app.telemetry.masking import mask_secrets, needs_no_mask
from app.telemetry.origin import clock, process


def masked_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    """Do what ``mask_secrets`` and ``json.dumps`` do, but mask only lines that may need it: masking is costly."""
    line = _encode(event)
    return line if needs_no_mask(event, line) else _encode(mask_secrets(_, __, event))


def _encode(event: Mapping[str, object]) -> str:
    """Return a line in ASCII, which every reader takes for text on one line."""
    try:
        line = orjson.dumps(event, default=str).decode()
    except orjson.JSONEncodeError:  # names that are not strings, integers over 64 bits, lone surrogates
        return _encode_anything(event)
    return line if line.isascii() else _encode_anything(event)


_encode_anything = json.JSONEncoder(default=str, separators=(",", ":")).encode


class Known(Protocol):
    """What an access line has in common with many others: the request, its client and the outcome."""

    kind: str
    """``request`` or ``connection``."""
    level: int
    counted: str
    """The name of the line's last field."""
    fields: Mapping[str, object]
    texts: tuple[str, ...] | None
    """What :class:`AccessLogger` makes of all this for the first of these lines, and keeps here."""

    def event(self, line_id: str, seconds: float, count: int) -> dict[str, object]:
        """Return the fields of one line as an event."""


class AccessLogger(BoundLoggerBase):
    """A structlog logger that can also write access lines, at a fraction of an event's cost.

    Everything that such lines have in common is masked and rendered once.
    """

    _processors: Sequence[Processor]

    least: int
    """The lowest level that is written."""

    def access(self, known: Known, line_id: str, seconds: float, count: int) -> None:
        """Write an access line.

        ``line_id`` is hexadecimal, ``seconds`` the duration, and ``count`` the number that ``known.counted`` names.
        """
        if known.level < self.least:
            return
        if self._processors[-1] is not masked_json or (len(copy_context()) and not get_contextvars().keys() <= _IDS):
            level = logging.getLevelName(known.level).lower()
            self._proxy_to_logger(level, known.kind, **known.event(line_id, seconds, count))
            return
        texts = known.texts
        if texts is None:
            texts = known.texts = _texts(self._logger.name, known)
        begin, before_id, before_ms, before_count = texts
        tenths = int(seconds * 10_000 + 0.5)
        ms = _TENTHS[tenths] if tenths < len(_TENTHS) else f"{tenths / 10:.1f}"
        self._logger.write(
            f'{{"timestamp":"{clock.now()}{begin}{process.id}{before_id}{line_id}{before_ms}{ms}{before_count}{count}}}\n'
        )


_TENTHS = tuple(f"{number / 10:.1f}" for number in range(1000))
"""Texts of the usual durations: to format a float takes a tenth of an access line's time."""

_IDS = {"request_id", "connection_id"}
"""What is bound for the other events of a request or a connection; its access line has it in any case."""


def _texts(logger: str, known: Known) -> tuple[str, ...]:
    """Return the text of a line between what differs: time, process, id, milliseconds and count."""
    begin = f'",{_begin(known.level, logger, known.kind)},"pid":'
    return begin, f',"{known.kind}_id":"', f'",{_members(known.fields)},"ms":', f',"{known.counted}":'


@lru_cache(maxsize=8)
def _begin(level: int, logger: str, event: str) -> str:
    return _members({"level": logging.getLevelName(level).lower(), "logger": logger, "event": event})


def _members(fields: Mapping[str, object]) -> str:
    return masked_json(None, "", {**fields})[1:-1]

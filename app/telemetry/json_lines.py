"""Log lines as JSON: any event, and the access line, whose form is fixed."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextvars import copy_context
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


class AccessLogger(BoundLoggerBase):
    """A structlog logger that can also write access lines, at a fraction of an event's cost.

    Everything that such lines have in common is masked and rendered once.
    """

    _processors: Sequence[Processor]

    least: int
    """The lowest level that is written."""

    def access(self, known: Known, line_id: str, seconds: float, count: int) -> bool:
        """Write an access line; return False if it must be logged as an event, because not all of it is known here.

        ``line_id`` is hexadecimal, ``seconds`` the duration, and ``count`` the number that ``known.counted`` names.
        """
        if known.level < self.least:
            return True
        if self._processors[-1] is not masked_json or (len(copy_context()) and not get_contextvars().keys() <= _IDS):
            return False
        texts = known.texts
        if texts is None:
            texts = known.texts = _texts(self._logger.name, known)
        begin, before_id, before_ms, before_count = texts
        ms = "%.1f" % (seconds * 1000)
        self._logger.write(
            f'{{"timestamp":"{clock.now()}{begin}{process.id}{before_id}{line_id}{before_ms}{ms}{before_count}{count}}}\n'
        )
        return True


_IDS = {"request_id", "connection_id"}
"""What is bound for the other events of a request or a connection; its access line has it in any case."""


def _texts(logger: str, known: Known) -> tuple[str, ...]:
    """Return the text of a line between what differs: time, process, id, milliseconds and count."""
    common = {"level": logging.getLevelName(known.level).lower(), "logger": logger, "event": known.kind}
    begin, fields = (masked_json(None, "", {**members})[1:-1] for members in (common, known.fields))
    return f'",{begin},"pid":', f',"{known.kind}_id":"', f'",{fields},"ms":', f',"{known.counted}":'

"""What a subscription yields, and how it is read."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple, Self

NOWHERE = "live:0"
"""The position of everything where the server keeps no messages. To resume from it is to be told of a gap."""

_EXACT = re.compile(
    r'(?s)\{"type":"message","channel":"[^"]*","position":(?:"([^"]*)"|null),"time":(\d{1,18}),"data":(.*)\}'
)


class Undecodable(str):
    """The data of a message that Python cannot decode, as it arrived."""

    __slots__ = ()


class Message(NamedTuple("Message", [("channel", str), ("position", str), ("time", int), ("data", Any)])):  # noqa: SLOT002
    """One message: ``time`` is in milliseconds since the Unix epoch, ``data`` is decoded JSON.

    ``raw`` is the data as the publisher wrote it. If Python cannot decode it, ``data`` is :class:`Undecodable`.
    """

    raw: str = ""

    @classmethod
    def of(cls, channel: str, position: str, milliseconds: int, raw: str) -> Self:
        """Return the message with this data."""
        try:
            data: Any = parse(raw)
        except (ValueError, RecursionError):
            data = Undecodable(raw)
        message = cls(channel, position, milliseconds, data)
        message.raw = raw
        return message


class Gap(NamedTuple):
    """Messages that cannot be delivered: all between ``after`` and ``next``; for ``reason`` see docs/protocol.md."""

    channel: str
    after: str
    next: str
    reason: str


def read_frame(channel: str, text: str) -> Message | Gap | dict[str, Any]:
    """Return what a text says; raise ValueError, LookupError, TypeError or RecursionError if it is no frame."""
    if match := _EXACT.fullmatch(text):
        return Message.of(channel, match[1] or NOWHERE, int(match[2]), match[3])
    frame: dict[str, Any] = parse(text)
    frame |= {name: NOWHERE for name in ("position", "after", "next") if name in frame and frame[name] is None}
    if frame["type"] == "message":
        return Message.of(channel, frame["position"], frame["time"], json.dumps(frame["data"]))
    return Gap(*map(frame.__getitem__, Gap._fields)) if frame["type"] == "gap" else frame


def parse(text: str) -> Any:  # noqa: ANN401 — JSON
    """Return the value of a JSON text (RFC 8259); raise ValueError, or RecursionError if it is nested too deep."""
    return json.loads(text, parse_int=_number, parse_constant=int)  # which takes no NaN


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) <= 4300 else float(digits)  # noqa: PLR2004 — int() takes no more

"""Bodies: how a row of the log, or a notification, holds several messages. Engines share them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import repeat

from app.core.message import Message

SEPARATOR = "\x1e"
"""Comes between the messages of a body. A control character, so no JSON text can hold it."""

_message: Callable[[Iterable[int | bytes]], Message] = partial(tuple.__new__, Message)
"""Makes a message of its parts without a call of Python's for each: a body may hold hundreds."""


def messages(last: int, time: int, body: bytes) -> tuple[Message, ...]:
    """Return the messages of a body; ``last`` is the offset of the last one, ``time`` in ms since 1970."""
    texts = body.split(b"\x1e")
    offsets = range(last - len(texts) + 1, last + 1)
    return tuple(map(_message, zip(offsets, repeat(time), texts, strict=False)))

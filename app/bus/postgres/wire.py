r"""What is said over NOTIFY, and how bodies hold messages. The SQL side is ``append()`` in 0001_log.sql.

One topic, ``abide``, and four kinds of notification::

    i <channel> <last> <n> <time>\n<body>     messages, inline
    d\\n<channel> <head>\n…                   doorbell: these heads have moved
    b                                         bell: there is something in the outbox
    h <token> <number>                        heartbeat
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import repeat
from typing import NamedTuple

from app.core.message import Batch, Message

TOPIC = "abide"

SEPARATOR = "\x1e"
"""Stands between the messages of a body. A control character, so no JSON text can hold it."""

MAX_INLINE_BODY = 7600
"""Bytes of a body that fit into one notification (8000) beside the longest name and the numbers."""


class Inline(NamedTuple):
    """A notification of kind ``i``; ``body`` is not taken apart yet, for most processes want few channels."""

    channel: str
    last: int
    time: int
    body: str

    def batch(self, epoch: str) -> Batch:
        """Return its messages."""
        return Batch(self.channel, epoch, messages(self.last, self.time, self.body))


def inline(payload: str) -> Inline:
    """Read a notification of kind ``i``."""
    header, _, body = payload.partition("\n")
    _, channel, last, _, time = header.split(" ")
    return Inline(channel, int(last), int(time), body)


def doorbell(payload: str) -> list[tuple[str, int]]:
    """Read a notification of kind ``d``: channels and their heads."""
    lines = (line.split(" ") for line in payload.split("\n")[1:])
    return [(channel, int(head)) for channel, head in lines]


_message: Callable[[Iterable[int | bytes]], Message] = partial(tuple.__new__, Message)
"""Makes a message of its parts, without a call of Python's for each: a body may hold hundreds."""


def messages(last: int, time: int, body: str) -> tuple[Message, ...]:
    """Take a row's body apart; ``last`` is the offset of its last message."""
    texts = body.encode().split(b"\x1e")
    offsets = range(last - len(texts) + 1, last + 1)
    return tuple(map(_message, zip(offsets, repeat(time), texts, strict=False)))

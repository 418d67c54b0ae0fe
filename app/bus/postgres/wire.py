r"""What is said over NOTIFY, and how bodies hold messages. The SQL side is ``append()`` in 0001_log.sql.

One topic, ``abide``, and four kinds of notification::

    i <channel> <last> <n> <time>\n<body>     messages, inline
    d\\n<channel> <head>\n…                   doorbell: these heads have moved
    b                                         bell: there is something in the outbox
    h <token> <number>                        heartbeat
"""

from __future__ import annotations

from app.core.message import Batch, Message

TOPIC = "abide"

SEPARATOR = "\x1e"
"""Stands between the messages of a body. A control character, so no JSON text can hold it."""

MAX_INLINE_BODY = 7600
"""Bytes of a body that fit into one notification (8000) beside the longest name and the numbers."""


def inline(payload: str, epoch: str) -> Batch:
    """Read a notification of kind ``i``."""
    header, _, body = payload.partition("\n")
    _, channel, last, _, time = header.split(" ")
    return Batch(channel, epoch, messages(int(last), int(time), body))


def doorbell(payload: str) -> list[tuple[str, int]]:
    """Read a notification of kind ``d``: channels and their heads."""
    lines = (line.split(" ") for line in payload.split("\n")[1:])
    return [(channel, int(head)) for channel, head in lines]


def messages(last: int, time: int, body: str) -> tuple[Message, ...]:
    """Take a row's body apart; ``last`` is the offset of its last message."""
    texts = body.encode().split(b"\x1e")
    first = last - len(texts) + 1
    return tuple(Message(first + index, time, data) for index, data in enumerate(texts))

r"""What is said over NOTIFY, and how bodies hold messages. The SQL side is in 0005_epochs.sql.

One topic, ``abide``, and four kinds of notification::

    e <mac> <epoch> <channel> <last> <n> <time>\n<body>    messages, inline
    d\n<channel> <head>\n…                                 doorbell: these heads have moved
    b                                                      bell: there is something in the outbox
    h <token>                                              heartbeat

Every role of the database can send all of them. So each is a hint where to look, and only messages with
the right ``mac`` are more: it covers all that follows it and the oid of the database, and only a commit and
a server know its key.
A server of before version 5 of the schema knows other letters, takes no notice, and polls.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable
from functools import partial
from itertools import repeat
from typing import NamedTuple

from app.core.channel import NAME
from app.core.message import MAX_OFFSET, Message

TOPIC = "abide"

SEPARATOR = "\x1e"
"""Stands between the messages of a body. A control character, so no JSON text can hold it."""

MAX_INLINE_BODY = 7600
"""Bytes of a body that fit into one notification (8000) beside the longest name and the numbers."""


_DOORBELL_LINES = 28
"""Channels that a commit names in one doorbell, at most."""

_DOORBELL = re.compile(rf"({NAME.pattern}) ([0-9]{{1,16}})", re.ASCII)
_INLINE = re.compile(
    rf"e ([0-9a-f]{{32}}) ([0-9a-z]{{8}}) ({NAME.pattern}) ([0-9]{{1,16}}) [0-9]{{1,5}} ([0-9]{{1,16}})\n", re.ASCII
)
_SEALED_FROM = len("e  ") + 32
"""Where what the MAC covers begins."""


class Inline(NamedTuple):
    """A notification of kind ``e``; not proved and not taken apart yet, for most processes want few channels."""

    epoch: str
    """The name of the newest one in the channel."""
    channel: str
    last: int
    time: int
    mac: str
    sealed: bytes
    """What the MAC covers."""
    body: int
    """Where the body begins in it."""

    def messages(self) -> tuple[Message, ...]:
        """Return its messages."""
        return messages(self.last, self.time, self.sealed[self.body :])


class Seal:
    """Knows what commits of the database with the oid ``database`` have sealed; ``inner_key`` is what it holds."""

    def __init__(self, inner_key: bytes, database: int) -> None:
        self._key = bytes(byte ^ 0x36 for byte in inner_key)
        self._database = b"%d " % database

    def proves(self, heard: Inline) -> bool:
        """Whether a commit sent it."""
        mac = hmac.digest(self._key, self._database + heard.sealed, "sha256")[:16].hex()
        return hmac.compare_digest(mac, heard.mac)


def inline(payload: str) -> Inline | None:
    """Read a notification of kind ``e``; return None of anything else."""
    found = _INLINE.match(payload)
    if found is None:
        return None
    mac, epoch, channel, last, time = found.groups()
    # All before the body is ASCII, so it has as many bytes as characters.
    sealed = payload[_SEALED_FROM:].encode()
    return Inline(epoch, channel, int(last), int(time), mac, sealed, found.end() - _SEALED_FROM)


def doorbell(payload: str) -> list[tuple[str, int]]:
    """Read a notification of kind ``d``: channels and their heads, as far as a commit's can be read."""
    lines = map(_DOORBELL.fullmatch, payload.split("\n", _DOORBELL_LINES + 1)[1 : _DOORBELL_LINES + 1])
    heads = [(line[1], int(line[2])) for line in lines if line]
    return [(channel, head) for channel, head in heads if head <= MAX_OFFSET]


_message: Callable[[Iterable[int | bytes]], Message] = partial(tuple.__new__, Message)
"""Makes a message of its parts, without a call of Python's for each: a body may hold hundreds."""


def messages(last: int, time: int, body: bytes) -> tuple[Message, ...]:
    """Take a row's body apart; ``last`` is the offset of its last message."""
    texts = body.split(b"\x1e")
    offsets = range(last - len(texts) + 1, last + 1)
    return tuple(map(_message, zip(offsets, repeat(time), texts, strict=False)))

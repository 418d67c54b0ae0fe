r"""The notifications of the one topic, and what proves that a commit has sent one. The SQL side is in 0005_epochs.sql.

The topic is ``abide``. Its four kinds of notification::

    e <mac> <epoch> <channel> <last> <n> <time>\n<body>    messages, inline
    d\n<channel> <head>\n…                                 doorbell: these heads have moved
    b                                                      bell: there is something in the outbox
    h <token>                                              heartbeat

Every role of the database can send all of them. So each is a hint where to look. Only messages with the right ``mac``
are more: it covers all that follows it and the oid of the database, and only commits and servers know its key.
A server from before version 5 of the schema knows other letters, ignores these, and polls.
"""

from __future__ import annotations

import hmac
import re
from typing import NamedTuple

from app.bus import bodies
from app.core.channel import NAME
from app.core.message import MAX_OFFSET, Message

TOPIC = "abide"

_DOORBELL_LINES = 28
"""The most channels that a commit names in one doorbell."""

_CHANNEL = rf"\$?{NAME.pattern}"  # a server's own begin with a dollar sign
_DOORBELL = re.compile(rf"({_CHANNEL}) ([0-9]{{1,16}})", re.ASCII)
_INLINE = re.compile(
    rf"e ([0-9a-f]{{32}}) ([0-9a-z]{{8}}) ({_CHANNEL}) ([0-9]{{1,16}}) [0-9]{{1,5}} ([0-9]{{1,16}})\n", re.ASCII
)
_SEALED_FROM = len("e  ") + 32
"""Where what the MAC covers begins."""


class Inline(NamedTuple):
    """A notification of kind ``e``, neither proved nor taken apart yet: most processes follow few channels."""

    epoch: str
    """The name of the channel's newest epoch."""
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
        return bodies.messages(self.last, self.time, self.sealed[self.body :])


class Seal:
    """Tells what commits have sealed in the database with the oid ``database``; ``inner_key`` is in ``abide.seal``."""

    def __init__(self, inner_key: bytes, database: int) -> None:
        self._key = bytes(byte ^ 0x36 for byte in inner_key)
        self._database = b"%d " % database

    def proves(self, heard: Inline) -> bool:
        """Whether a commit sent it."""
        mac = hmac.digest(self._key, self._database + heard.sealed, "sha256")[:16].hex()
        return hmac.compare_digest(mac, heard.mac)


def inline(payload: str) -> Inline | None:
    """Read a notification of kind ``e``; return None for anything else."""
    found = _INLINE.match(payload)
    if found is None:
        return None
    mac, epoch, channel, last, time = found.groups()
    # Everything before the body is ASCII, so it has as many bytes as characters.
    sealed = payload[_SEALED_FROM:].encode()
    return Inline(epoch, channel, int(last), int(time), mac, sealed, found.end() - _SEALED_FROM)


def doorbell(payload: str) -> list[tuple[str, int]]:
    """Read a notification of kind ``d``: channels and their heads, in so far as a commit could have sent them."""
    lines = map(_DOORBELL.fullmatch, payload.split("\n", _DOORBELL_LINES + 1)[1 : _DOORBELL_LINES + 1])
    heads = [(line[1], int(line[2])) for line in lines if line]
    return [(channel, head) for channel, head in heads if head <= MAX_OFFSET]

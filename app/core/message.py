"""The message and its place in a channel's log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from app.core.errors import MalformedError

MAX_OFFSET = 2**53 - 1
"""The largest offset: the largest integer that every JSON parser reads exactly."""

POSITION = re.compile(r"([A-Za-z0-9]{1,64}):(0|[1-9][0-9]{0,15})", re.ASCII)
"""The text form of a position."""

NOWHERE = "live:0"
"""A position of no log, where a text is needed and the backend has no positions. To resume from it is to be told of a
gap."""

_KEY = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)


class Position(NamedTuple):
    """A place in one channel's log: ``<epoch>:<offset>``.

    ``offset`` is that of the last message before the place: a reader that resumes from the position
    of the last message it saw gets everything after it. ``epoch`` is a label of
    :mod:`app.core.epochs`: it shows how far another log agrees with the one of the position.

    Where the backend keeps no messages, the epoch is empty: the offset counts what this process has
    heard, and means nothing to anybody else.
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"

    @property
    def text(self) -> str | None:
        """The position as clients get it; None where there are no positions."""
        return f"{self.epoch}:{self.offset}" if self.epoch else None

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read ``<epoch>:<offset>``; raise :class:`MalformedError` for anything else."""
        match = POSITION.fullmatch(text)
        if match is None or int(match[2]) > MAX_OFFSET:
            msg = f"{text[:80]!r} is not a position: expected '<epoch>:<offset>'"
            raise MalformedError(msg)
        return cls(match[1], int(match[2]))


class Message(NamedTuple):
    """One immutable item of a channel's log."""

    offset: int
    """1, 2, 3, … in the channel, without gaps, in commit order."""
    time: int
    """Milliseconds since the Unix epoch, by the backend's clock at append."""
    data: bytes
    """The publisher's JSON text, UTF-8, byte for byte.

    Empty where an engine's log has an offset without a message, such as the mark of a transaction: it is sent to
    nobody, and is no gap.
    """


class EpochChange(NamedTuple):
    """A channel's log goes on in another epoch: messages that readers have and the log does not are lost."""

    channel: str
    offset: int
    """The next messages come after this offset."""
    lineage: str
    """As in :mod:`app.core.epochs`."""
    head: int
    """The newest offset of the log when it was read."""


class Loss(NamedTuple):
    """A backend that keeps no messages was not heard for a while: messages of the channel may be lost until now."""

    channel: str


class Batch(NamedTuple):
    """Messages of one channel with consecutive offsets, ascending; never empty."""

    channel: str
    epoch: str
    """The label of their positions."""
    messages: tuple[Message, ...]

    @property
    def first(self) -> int:
        """Offset of the first message."""
        return self.messages[0].offset

    @property
    def last(self) -> int:
        """Offset of the last message."""
        return self.messages[-1].offset

    def after(self, offset: int) -> tuple[Message, ...]:
        """Return the messages past ``offset``."""
        return self.messages[max(0, offset + 1 - self.first) :]


News = Batch | EpochChange | Loss
"""What comes of one channel, in the order in which it happened."""


class Published(NamedTuple):
    """The result for a publisher: the position of its message."""

    position: Position
    replayed: bool = False
    """True if a message with this idempotency key was stored before, so nothing was appended now."""


class Record(NamedTuple):
    """A message on its way into the log: it has no offset and no time yet."""

    channel: str
    data: bytes
    """JSON text, UTF-8, checked by :mod:`app.core.data`."""
    key: str | None = None
    """Idempotency key: for ten minutes the channel stores one message of this publisher with it."""
    publisher: str = ""
    """The name of the identity that publishes it."""

    @property
    def scoped_key(self) -> str:
        """The key as backends store it, with the publisher's name before it; only for a record with a key.

        No key contains a space, so none equals a key from SQL, which is stored without a name.
        """
        return f"{self.publisher} {self.key}"


class Page(NamedTuple):
    """The result of one bounded read of a channel's log."""

    first: int
    """Offset of the oldest message that the history still shows; ``head + 1`` when it shows none."""
    head: int
    """Offset of the newest message; 0 before the first."""
    messages: tuple[Message, ...]
    """Consecutive, ascending, starting at the later of ``after + 1`` and ``first``."""
    lineage: str
    """The channel's epochs, as in :mod:`app.core.epochs`."""


def consecutive(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return ascending messages up to the first missing offset, such as that of a row deleted by hand."""
    if not messages or messages[-1].offset - messages[0].offset == len(messages) - 1:
        return tuple(messages)
    expected = enumerate(messages, messages[0].offset)
    return tuple(message for _, message in takewhile(lambda pair: pair[0] == pair[1].offset, expected))


def check_key(key: str | None) -> str | None:
    """Return an idempotency key; raise :class:`MalformedError` unless it is 1 to 255 visible ASCII characters."""
    if key is not None and not _KEY.fullmatch(key):
        msg = "an idempotency key is 1 to 255 visible ASCII characters"
        raise MalformedError(msg)
    return key

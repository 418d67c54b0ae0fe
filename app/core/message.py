"""The message and its place in a channel's log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

from app.core.errors import MalformedError

MAX_OFFSET = 2**53 - 1
"""The largest offset: what a double, and so every JSON reader, holds exactly."""

POSITION = re.compile(r"([A-Za-z0-9]{1,64}):(0|[1-9][0-9]{0,15})", re.ASCII)
"""How a position is written."""

_KEY = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)


class Position(NamedTuple):
    """A place in one channel's log: ``<epoch>:<offset>``.

    ``offset`` is that of the last message before the place, so a reader that holds the
    position of the last message it saw wants everything after it. ``epoch`` is a label of
    :mod:`app.core.epochs`: it tells how far a log agrees with the one that the position is of.
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"

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
    """The publisher's JSON text, UTF-8, byte for byte."""


class EpochChange(NamedTuple):
    """A channel's log goes on in another epoch. Who has more of it than it has, by its lineage, has lost that."""

    channel: str
    offset: int
    """After which the messages go on that are handed out."""
    lineage: str
    """As in :mod:`app.core.epochs`."""
    head: int
    """The newest offset when that was read."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages of one channel with consecutive offsets, ascending; never empty."""

    channel: str
    epoch: str
    """What their positions are labelled with."""
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


class Published(NamedTuple):
    """What a publisher is told: where its message stands."""

    position: Position
    replayed: bool = False
    """True when an idempotency key had stored it before and nothing was appended now."""


class Record(NamedTuple):
    """A message on its way into the log: it has no offset and no time yet."""

    channel: str
    data: bytes
    """JSON text, UTF-8, checked by :mod:`app.core.data`."""
    key: str | None = None
    """Idempotency key: within ten minutes the channel stores one message of this publisher under it."""
    publisher: str = ""
    """The name of the identity that publishes it."""

    @property
    def scoped_key(self) -> str:
        """The key as backends keep it, apart from other publishers'; of a record with a key.

        A key has no space, so none is that of a publisher in SQL, which is kept as it is.
        """
        return f"{self.publisher} {self.key}"


class Page(NamedTuple):
    """What one bounded read of a channel's log returns."""

    first: int
    """Offset of the oldest message that the history still shows; ``head + 1`` when it shows none."""
    head: int
    """Offset of the newest message; 0 before the first."""
    messages: tuple[Message, ...]
    """Consecutive, ascending, starting at the later of ``after + 1`` and ``first``."""
    lineage: str
    """Which epochs the channel has had, as in :mod:`app.core.epochs`."""


def consecutive(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return ascending messages up to the first offset that is missing, as where a row was deleted by hand."""
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

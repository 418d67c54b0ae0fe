"""Where a new subscription begins, and what it has to be told. Decisions only: no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from app.core.epochs import label, shared
from app.core.errors import MalformedError
from app.core.message import Position

EARLIEST = "earliest"

MOST = 10**9
"""The most that ``last`` may be."""

_COUNT = re.compile(r"[0-9]{1,10}", re.ASCII)

_SHOWN = 255
"""Characters of a position that are repeated to who gave it."""


class Reason(StrEnum):
    """Why messages that were asked for do not come."""

    EXPIRED = "expired"
    EPOCH = "epoch"
    AHEAD = "ahead"
    DROPPED = "dropped"


class Gap(NamedTuple):
    """What cannot be delivered: everything after ``after`` and before ``next``."""

    after: str
    """The position that the subscriber had, as it gave it."""
    next: Position
    """Of the first message that will come."""
    reason: Reason


@dataclass(frozen=True, slots=True)
class Start:
    """Where a subscriber asks to begin; by default at the head."""

    since: Position | None = None
    """After this position."""
    given: str | None = None
    """How the subscriber spelled ``since``, where that is not its usual form."""
    earliest: bool = False
    """With the oldest message held."""
    last: int = 0
    """With so many messages before the head, as far as they are held."""

    @property
    def is_head(self) -> bool:
        """Whether it needs nothing of the past."""
        return self.since is None and not self.earliest and not self.last

    @classmethod
    def after_event(cls, event_id: str) -> Start:
        """Read a ``Last-Event-ID``: one that is not ours is a position that nobody knows, not an error."""
        try:
            return cls(since=Position.parse(event_id))
        except MalformedError:
            return cls(since=Position("", 0), given=event_id[:_SHOWN])

    @classmethod
    def parse(cls, since: str | None, last: str | None) -> Start:
        """Read the two parameters; ``since`` wins. Raises :class:`MalformedError` for either."""
        count = 0
        if last is not None:
            if not _COUNT.fullmatch(last) or int(last) > MOST:
                msg = f"'last' must be a whole number of messages, not {last[:40]!r}"
                raise MalformedError(msg)
            count = int(last)
        if since == EARLIEST:
            return cls(earliest=True)
        if since is not None:
            return cls(since=Position.parse(since))
        return cls(last=count)


class Beginning(NamedTuple):
    """Where a subscription begins."""

    cursor: int
    """Offset of the message before the first one that will come."""
    resumed: bool
    """Whether it had a position and nothing after that is missing."""
    gap: Gap | None


def begin(start: Start, lineage: str, first: int, head: int) -> Beginning:
    """Decide, knowing the channel's lineage, the oldest offset that its history shows, and its head."""
    if start.since is not None:
        return _resume(start.since, start.given or str(start.since), lineage, first, head)
    if start.earliest:
        return Beginning(first - 1, resumed=False, gap=None)
    return Beginning(max(first - 1, head - start.last), resumed=False, gap=None)


def _resume(since: Position, given: str, lineage: str, first: int, head: int) -> Beginning:
    common = shared(since, lineage, head)
    if common is None:
        return _with_gap(given, lineage, first, Reason.EPOCH)
    if since.offset + 1 < first:
        return _with_gap(given, lineage, first, Reason.EXPIRED)
    if common < since.offset:
        return _with_gap(given, lineage, max(first, common + 1), Reason.AHEAD)
    return Beginning(since.offset, resumed=True, gap=None)


def _with_gap(given: str, lineage: str, following: int, reason: Reason) -> Beginning:
    gap = Gap(given, Position(label(lineage), following), reason)
    return Beginning(following - 1, resumed=False, gap=gap)

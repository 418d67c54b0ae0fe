"""Decides where a new subscription begins, and which gap it is told of. No I/O."""

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
"""The largest value of ``last``."""

_COUNT = re.compile(r"[0-9]{1,10}", re.ASCII)

_SHOWN = 255
"""How many characters of an unknown position a gap repeats."""


class Reason(StrEnum):
    """Why messages are missing."""

    EXPIRED = "expired"
    EPOCH = "epoch"
    AHEAD = "ahead"
    DROPPED = "dropped"


class Gap(NamedTuple):
    """Messages that cannot be delivered: all after ``after`` and before ``next``."""

    after: str | None
    """The position that the subscriber had, as it wrote it; None where there are no positions."""
    next: Position
    """The position of the first message that follows."""
    reason: Reason
    by_policy: bool = False
    """Whether the channel drops messages for slow subscribers."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a subscriber asks to begin; by default at the head."""

    since: Position | None = None
    """After this position."""
    given: str | None = None
    """What the subscriber sent for ``since``, if that was not a position."""
    earliest: bool = False
    """At the oldest message of the history."""
    last: int = 0
    """At most so many messages before the head."""

    @property
    def is_head(self) -> bool:
        """Whether the subscriber asks for no earlier messages."""
        return self.since is None and not self.earliest and not self.last

    @classmethod
    def after_event(cls, event_id: str) -> Start:
        """Read a ``Last-Event-ID``; an id of another server is an unknown position, not an error."""
        try:
            return cls(since=Position.parse(event_id))
        except MalformedError:
            return cls(since=Position("", 0), given=event_id[:_SHOWN])

    @classmethod
    def parse(cls, since: str | None, last: str | None) -> Start:
        """Read the two parameters; ``since`` takes precedence. Raises :class:`MalformedError` for either."""
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
    """Offset of the message before the first one that follows."""
    resumed: bool
    """Whether the subscriber gave a position and nothing after it is missing."""
    gap: Gap | None


def begin(start: Start, lineage: str, first: int, head: int) -> Beginning:
    """Decide from the channel's lineage, the oldest offset of its history (``first``), and its head."""
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

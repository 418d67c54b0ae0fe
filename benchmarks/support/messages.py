"""The published messages, and the ledger in which a receiver accounts for them.

A message is a JSON string of fixed layout, so that both sides carry the same text and reading it
costs next to nothing: ``"<number in its channel> <monotonic time of publishing> <padding>"``.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

CHANNELS = tuple(f"bench.{number}" for number in range(10))

_NUMBER = slice(1, 11)
_TIME = slice(12, 29)


def compose(number: int, size: int) -> str:
    """Return the message with a number, from 1, as JSON of ``size`` bytes (32 at least), published now."""
    return f'"{number:010d} {time.monotonic():017.6f} '.ljust(size - 1, "x") + '"'


def compose_anonymous(size: int) -> str:
    """Return a message without number and time; receivers use its offset."""
    return f'"{0:010d} {0:017.6f} '.ljust(size - 1, "x") + '"'


@dataclass(frozen=True, slots=True)
class Receipt:
    """The messages that one receiver got, compared with the published ones."""

    received: int
    lost: int
    doubled: int
    disordered: int
    finished: float
    """When the last message arrived, by the monotonic clock, which is one for all processes."""
    published_at: array[float]
    """When the recorded messages were published …"""
    arrived_at: array[float]
    """… and when each of them arrived."""

    @property
    def is_exact(self) -> bool:
        """Whether everything arrived exactly once and in order."""
        return not (self.lost or self.doubled or self.disordered)

    def delays(self, since: float = 0.0, until: float = float("inf")) -> list[float]:
        """Return the seconds from publishing to arrival of every recorded message that was published between."""
        pairs = zip(self.published_at, self.arrived_at, strict=True)
        return [arrived - published for published, arrived in pairs if since <= published < until]


@dataclass(slots=True)
class Ledger:
    """A receiver's account: every message of each channel exactly once and in order, or what went wrong."""

    recording: bool
    """Whether to keep the times of every message."""
    received: int = 0
    doubled: int = 0
    disordered: int = 0
    arrived: float = 0.0
    last: dict[str, int] = field(default_factory=dict)
    missing: set[tuple[str, int]] = field(default_factory=set)
    published_at: array[float] = field(default_factory=lambda: array("d"))
    arrived_at: array[float] = field(default_factory=lambda: array("d"))

    def take(self, channel: str, data: str | bytes, offset: int = 0) -> None:
        """Enter a message; one without a number counts by its ``offset``. Set ``arrived`` before."""
        number = int(data[_NUMBER]) or offset
        last = self.last.get(channel, 0)
        self.received += 1
        if number == last + 1:
            self.last[channel] = number
        else:
            self._take_unexpected(channel, number, last)
        if self.recording:
            self.published_at.append(float(data[_TIME]))
            self.arrived_at.append(self.arrived)

    def has(self, published: Mapping[str, int]) -> bool:
        """Whether the newest message of every channel is there; ``published`` maps channels to their counts."""
        return all(self.last.get(channel, 0) >= count for channel, count in published.items())

    def receipt(self, published: Mapping[str, int]) -> Receipt:
        """Judge by what was published."""
        cut = sum(max(0, count - self.last.get(channel, 0)) for channel, count in published.items())
        return Receipt(
            received=self.received,
            lost=len(self.missing) + cut,
            doubled=self.doubled,
            disordered=self.disordered,
            finished=self.arrived,
            published_at=self.published_at,
            arrived_at=self.arrived_at,
        )

    def _take_unexpected(self, channel: str, number: int, last: int) -> None:
        if number > last:
            self.missing.update((channel, between) for between in range(last + 1, number))
            self.last[channel] = number
        elif (channel, number) in self.missing:
            self.missing.remove((channel, number))
            self.disordered += 1
        else:
            self.doubled += 1

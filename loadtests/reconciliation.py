"""Compares the messages that were expected with the messages that arrived.

The offsets of a channel are 1, 2, 3, … without gaps. So a subscriber's own offsets show which messages it missed or got
twice, and the publishers' positions show how far every subscriber must get. This module does not need locust.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Heads = dict[str, dict[str, int]]
"""Channel → epoch → the newest offset that a publisher was answered."""


class Row(NamedTuple):
    """One subscriber's account at the end. ``expected = received + holes``; ``gone``: messages in reported gaps."""

    subscriber: str
    channel: str
    expected: int
    received: int
    doubles: int
    gaps: int
    gone: int

    @property
    def holes(self) -> int:
        """Expected messages that did not come, and that no gap reported."""
        return self.expected - self.received


class Account:
    """The messages that one subscriber got from one channel. ``epoch`` and ``offset`` are its position, if it has one.

    A message out of order is both a hole and a double.
    """

    __slots__ = (
        "channel",
        "doubles",
        "epoch",
        "expected",
        "gaps",
        "gone",
        "offset",
        "present",
        "received",
        "subscriber",
    )

    def __init__(self, subscriber: str, channel: str) -> None:
        self.subscriber, self.channel = subscriber, channel
        self.epoch, self.offset = "", 0
        self.expected = self.received = self.doubles = self.gaps = self.gone = 0
        self.present = True  # False once its user has left: later messages are not expected

    @property
    def position(self) -> str | None:
        """Where to resume; None before the first connection."""
        return f"{self.epoch}:{self.offset}" if self.epoch else None

    def take(self, frame: Mapping[str, Any]) -> None:
        """Note a frame of ``abide.v1``."""
        match frame["type"]:
            case "subscribed":
                self.subscribed(frame["position"])
            case "gap":
                self.gap(frame["next"])
            case "message":
                self.message(frame["position"])

    def subscribed(self, position: str) -> None:
        """Begin at the position of the first subscription. A later one must continue from the account's position."""
        if not self.epoch:
            self.epoch, self.offset = _parse(position)

    def gap(self, following: str) -> None:
        """Note that the server reported a gap up to the message at ``following``."""
        epoch, offset = _parse(following)
        self.gaps += 1
        if epoch == self.epoch:
            self.gone += max(0, offset - 1 - self.offset)
        self.epoch, self.offset = epoch, offset - 1

    def message(self, position: str) -> None:
        """Note a message."""
        epoch, offset = _parse(position)
        if epoch != self.epoch:
            self.expected += 1  # the number of messages left in the log's former epoch is unknown: at least one hole
            self.epoch, self.offset = epoch, 0
        if offset <= self.offset:
            self.doubles += 1
            return
        self.expected += offset - self.offset
        self.received += 1
        self.offset = offset

    def is_behind(self, heads: Mapping[str, Mapping[str, int]]) -> bool:
        """Tell whether acknowledged messages have not arrived yet."""
        return self.present and self._missing(heads) > 0

    def row(self, heads: Mapping[str, Mapping[str, int]]) -> Row:
        """Return the account. A message that a present subscriber has not received by now is a hole."""
        expected = self.expected + (self._missing(heads) if self.present else 0)
        return Row(self.subscriber, self.channel, expected, self.received, self.doubles, self.gaps, self.gone)

    def _missing(self, heads: Mapping[str, Mapping[str, int]]) -> int:
        return max(0, heads.get(self.channel, {}).get(self.epoch, 0) - self.offset)


class Ledger:
    """The accounts of one locust process, and the positions that its publishers got."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin a new run."""
        self.accounts: list[Account] = []
        self.heads: Heads = {}
        self.in_flight = 0  # pushes without an answer yet
        self.closing = False  # true when publishing has ended

    def open(self, channel: str) -> Account:
        """Open the account of one more subscriber."""
        account = Account(f"subscriber {len(self.accounts) + 1}", channel)
        self.accounts.append(account)
        return account

    def stored(self, channel: str, epoch: str, offset: int) -> None:
        """Note the position that a publisher got."""
        merge(self.heads, {channel: {epoch: offset}})

    def is_behind(self, heads: Mapping[str, Mapping[str, int]]) -> bool:
        """Tell whether any subscriber has not reached the heads yet."""
        return any(account.is_behind(heads) for account in self.accounts)

    def rows(self, heads: Mapping[str, Mapping[str, int]]) -> list[Row]:
        """Return the accounts of all subscribers."""
        return [account.row(heads) for account in self.accounts if account.epoch]


class Totals(NamedTuple):
    """All accounts together."""

    subscribers: int
    expected: int
    received: int
    holes: int
    doubles: int
    gaps: int
    gone: int


def total(rows: Iterable[Row]) -> Totals:
    """Add accounts up."""
    rows = list(rows)
    sums = {name: sum(getattr(row, name) for row in rows) for name in Totals._fields[1:]}
    return Totals(len(rows), **sums)


def merge(heads: Heads, others: Mapping[str, Mapping[str, int]]) -> None:
    """Raise ``heads`` to those of another process."""
    for channel, epochs in others.items():
        known = heads.setdefault(channel, {})
        for epoch, offset in epochs.items():
            known[epoch] = max(offset, known.get(epoch, 0))


def _parse(position: str) -> tuple[str, int]:
    epoch, _, offset = position.rpartition(":")
    return epoch, int(offset)

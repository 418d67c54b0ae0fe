"""What must hold where nothing is kept and there are no positions: each loss is told as a gap. No I/O.

Positions are no help, so messages are judged by time: one that was sent after another was answered comes later. Between
the beginning of a connection and its end, or a gap, a subscriber has a piece of the channel. Of every message that lies
within the piece, because others of it were published before and after, the subscriber must have been told once.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf

from tests.support.verdict import Began, Got, Ledger, Log, Missed, short


@dataclass
class _Times:
    """When a message was published, as far as its publisher knows, in seconds of the monotonic clock."""

    sent: float
    """The first time, if it was sent again: that may be the one that counted, with a key."""
    answered: float = inf
    attempts: int = 1


class LiveLedger(Ledger):
    """What publishers know, where they are answered without positions."""

    def __init__(self) -> None:
        super().__init__({})
        self._times: dict[str, dict[str, _Times]] = defaultdict(dict)

    def doubt(self, channel: str, data: str) -> None:
        """Note that a message is sent, or sent again."""
        super().doubt(channel, data)
        known = self._times[channel].get(data)
        if known is None:
            self._times[channel][data] = _Times(time.monotonic())
        else:
            known.attempts += 1

    def acknowledge(self, channel: str, position: str | None, data: str, life: int) -> None:  # noqa: ARG002 — a ledger's
        """Note that a message was published."""
        self.doubtful[channel].discard(data)
        self.committed[channel].add(data)
        self._times[channel][data].answered = time.monotonic()
        if position is not None:
            self.wrong.append(f"{channel}: {short(data)} has the position {position}")

    def faults(self, logs: Iterable[Log]) -> list[str]:
        """Return what is wrong, in words: nothing, if each loss was told."""
        wrong = list(self.wrong)
        for log in logs:
            for piece in _pieces(log):
                wrong += [f"{log}: {what}" for what in _judge(piece, self._times[log.channel])]
            wrong += [f"{log}: {what}" for what in _unsaid(log)]
        return wrong


def _judge(piece: list[str], times: dict[str, _Times]) -> Iterator[str]:
    """Say what is wrong with what came without an interruption."""
    yield from (f"nobody published {short(data)}" for data in piece if data not in times)
    counts = Counter(data for data in piece if data in times)
    yield from (
        f"{short(data)} came {count} times, and was sent {times[data].attempts} times"
        for data, count in counts.items()
        if count > times[data].attempts
    )
    once = [data for data in counts if times[data].attempts == 1]
    latest = -inf
    for data in once:  # in the order in which they came
        if times[data].answered < latest:
            yield f"{short(data)} came after what was sent when it had been answered"
        latest = max(latest, times[data].sent)
    first = min((times[data].answered for data in once), default=inf)
    missing = [data for data, one in times.items() if first < one.sent and one.answered < latest and data not in counts]
    if missing:
        lost = times[missing[0]]
        before = [data for data in once if times[data].answered < lost.sent]
        after = [data for data in once if lost.answered < times[data].sent]
        yield (
            f"{len(missing)} messages are missing without a gap: the first is {short(missing[0])}, "
            f"between {short(before[-1])} and {short(after[0])}"
        )


def _pieces(log: Log) -> Iterator[list[str]]:
    """Yield the data of what came without an interruption."""
    piece: list[str] = []
    for told in log.told:
        if isinstance(told, Got):
            piece.append(told.data)
        elif piece:
            yield piece
            piece = []
    yield piece


def _unsaid(log: Log) -> Iterator[str]:
    """Say where somebody who came back was not told of a gap before anything new."""
    due = False
    for told in log.told:
        if isinstance(told, Began):
            due = told.asked is not None
            if told.resumed and due:
                yield "was told that it resumed, and nothing was kept"
        elif isinstance(told, Missed):
            due = False
        elif isinstance(told, Got) and due:
            yield f"came back and got {short(told.data)} without a gap"
            due = False

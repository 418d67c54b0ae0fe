"""What was published, what each subscriber was told, and whether the two agree. No I/O.

A :class:`Ledger` keeps what publishers were answered, a :class:`Log` what one subscriber was told of one channel;
:meth:`Ledger.faults` compares them. Each message's data must be a text that no other message has. What must hold where
the log was rewritten is in :mod:`tests.support.rewritten`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple


class Began(NamedTuple):
    """A connection began at ``position``; ``asked`` is where it was asked to begin, None for the head."""

    position: str
    asked: str | None
    resumed: bool


class Got(NamedTuple):
    """A message came; on a plain socket without ``position``."""

    position: str | None
    data: str


class Missed(NamedTuple):
    """A gap came."""

    after: str
    next: str
    reason: str


class Cut(NamedTuple):
    """The connection ended."""


class Rewritten(NamedTuple):
    """From here on the log was another one: it had lost messages, and nobody had told the subscriber yet."""


class Settled(NamedTuple):
    """The rewriting is over: what is told from now on is of the present log."""


Told = Began | Got | Missed | Cut | Rewritten | Settled


def offset_of(position: str) -> int:
    """Return a position's offset."""
    return int(position.rpartition(":")[2])


def before(position: str) -> str:
    """Return the position before one: where who was told of a gap stands."""
    epoch, _, offset = position.rpartition(":")
    return f"{epoch}:{int(offset) - 1}"


@dataclass
class Log:
    """What one subscriber was told of one channel, and the position that it comes back with."""

    subscriber: str
    channel: str
    plain: bool = False
    """Whether there are no positions: then only what one connection brings can be judged."""
    told: list[Told] = field(default_factory=list)
    position: str | None = None
    last: str | None = None
    """Data of the newest message."""

    def began(self, position: str, *, resumed: bool) -> None:
        """Note where a connection began; unless it resumed, a gap comes next: the old position holds until then."""
        self.told.append(Began(position, self.position, resumed))
        if resumed or self.position is None:
            self.position = position

    def got(self, position: str | None, data: str) -> None:
        """Note a message."""
        self.told.append(Got(position, data))
        self.position, self.last = position or self.position, data

    def missed(self, after: str, following: str, reason: str) -> None:
        """Note a gap."""
        self.told.append(Missed(after, following, reason))
        self.position = before(following)

    def cut(self) -> None:
        """Note the end of a connection."""
        self.told.append(Cut())

    def rewritten(self) -> None:
        """Note that the log has lost messages."""
        self.told.append(Rewritten())

    def settled(self) -> None:
        """Note that the rewriting is over."""
        self.told.append(Settled())

    def __str__(self) -> str:
        return f"{self.subscriber} on {self.channel}"


class Timeline:
    """What happened when, for the report of a run that failed."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._lines: list[tuple[str, str]] = []

    def note(self, text: str, *, by: str = "") -> None:
        """Write a line with the seconds since the beginning; ``by`` is the subscriber whose matter it is."""
        self._lines.append((by, f"{time.monotonic() - self._began:7.3f} {by and f'{by} '}{text}".rstrip()))

    def lines(self, *, by: Container[str]) -> list[str]:
        """Return the lines that are everybody's matter, and those of some subscribers."""
        return [line for name, line in self._lines if not name or name in by]


Held = Mapping[int, str | None]
"""What the log of a channel holds at each of its offsets: data, or None where there is no message."""


class Saved(NamedTuple):
    """What a copy of the log holds for certain, of each channel."""

    acknowledged: dict[str, dict[int, str]]
    committed: dict[str, set[str]]


NOTHING = Saved({}, {})


class Ledger:
    """What publishers know: positions of what was acknowledged, what was committed, and what may be stored or not.

    ``sizes`` are the messages that each channel's history shows; where it is not named, nothing is ever missing. Each
    offset has a message, unless the log itself says otherwise (:meth:`read`).
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes
        self._lives: dict[str, list[Held]] = defaultdict(list)
        """What the log itself was read to hold, in one life after the other."""
        self.acknowledged: dict[str, dict[int, str]] = defaultdict(dict)
        """Data of each channel by offset."""
        self.committed: dict[str, set[str]] = defaultdict(set)
        """Data of each channel that is stored, or will be, nobody says where: a transaction in SQL has committed it."""
        self.doubtful: dict[str, set[str]] = defaultdict(set)
        """Data of each channel that may be stored once, or not at all."""
        self.life = 0
        """Of the log: odd while it is being rewritten."""
        self.wrong: list[str] = []
        """What was noticed at once."""

    def acknowledge(self, channel: str, position: str, data: str, life: int) -> None:
        """Note that a message is stored: each publisher's positions grow.

        ``life`` is the log's when the message was sent. It stays in doubt if it may be stored in a log that is gone.
        """
        if life != self.life or life % 2:
            return
        known = self.acknowledged[channel]
        offset = offset_of(position)
        if known.setdefault(offset, data) != data:
            self.wrong.append(f"{channel}: {position} was given to {data} and to {known[offset]}")
        self.doubtful[channel].discard(data)

    def doubt(self, channel: str, data: str) -> None:
        """Note that a message may be stored once, or not at all."""
        self.doubtful[channel].add(data)

    def commit(self, channel: str, data: str, life: int) -> None:
        """Note that a transaction in SQL has committed a message; ``life`` is the log's when it began."""
        if life != self.life or life % 2:
            return
        self.committed[channel].add(data)
        self.doubtful[channel].discard(data)

    def save(self) -> Saved:
        """Return what is stored for certain now: what a copy of the log that is made from now on holds."""
        return Saved(
            {channel: dict(known) for channel, known in self.acknowledged.items()},
            {channel: set(known) for channel, known in self.committed.items()},
        )

    @contextmanager
    def rewriting(self, saved: Saved) -> Iterator[None]:
        """Note that the log is being replaced by a copy: what was stored after ``saved`` may have gone."""
        self.life += 1
        yield
        for channel, known in self.acknowledged.items():
            kept = saved.acknowledged.get(channel, {})
            self.doubtful[channel].update(data for offset, data in known.items() if offset not in kept)
            self.acknowledged[channel] = dict(kept)
        for channel, committed in self.committed.items():
            self.doubtful[channel].update(committed - saved.committed.get(channel, set()))
            self.committed[channel] = set(saved.committed.get(channel, set()))
        self.life += 1

    def read(self, logs: Mapping[str, Held]) -> None:
        """Note what the log of each channel holds at the end of one of its lives, read without our server."""
        for channel, held in logs.items():
            self._lives[channel].append(held)

    def present(self, channel: str) -> Held | None:
        """Return what the log itself held when it was read last; None if it never was."""
        return self._lives[channel][-1] if self._lives[channel] else None

    def follows(self, channel: str, at: int, offset: int, data: str) -> bool:
        """Whether the message at ``offset`` is the next one of the log after ``at``, in whichever life has it."""
        return offset == at + 1 or any(
            at < offset
            and life.get(offset) == data
            and all(life.get(between, "") is None for between in range(at + 1, offset))
            for life in self._lives[channel]
        )

    def is_nothing(self, channel: str, at: int, last: int) -> bool:
        """Whether offsets past ``at``, up to ``last``, hold no message, in one of the log's lives; some at least."""
        return any(
            at < last and all(life.get(offset, "") is None for offset in range(at + 1, last + 1))
            for life in self._lives[channel]
        )

    def head(self, channel: str) -> int:
        """Return the highest offset that was acknowledged."""
        return max(self.acknowledged[channel], default=0)

    def published(self, channel: str) -> set[str]:
        """Return the data that anybody has published."""
        return {*self.acknowledged[channel].values(), *self.committed[channel], *self.doubtful[channel]}

    def counts(self) -> tuple[int, int]:
        """Return how many messages were acknowledged or committed, and how many are in doubt."""
        known = (*self.acknowledged.values(), *self.committed.values())
        return sum(map(len, known)), sum(map(len, self.doubtful.values()))

    def faults(self, logs: Iterable[Log]) -> list[str]:
        """Return what is wrong, in words: nothing, if the promises were kept."""
        logs = list(logs)
        faults = list(self.wrong)
        for channel in dict.fromkeys(log.channel for log in logs):
            stored, doubles = self._stored(channel, logs)
            faults += doubles
            for log in logs:
                if log.channel == channel:
                    faults += [f"{log}: {what}" for what in self._judge(log, stored)]
        return faults

    def _stored(self, channel: str, logs: Iterable[Log]) -> tuple[dict[int, str], list[str]]:
        """Return data by offset, from the log, what was acknowledged and what anybody was told; and what is wrong."""
        present = self.present(channel)
        stored, faults = dict(self.acknowledged[channel]), []
        for log in logs:
            for told in log.told if log.channel == channel else ():
                if isinstance(told, Got) and told.position is not None:
                    data = stored.setdefault(offset_of(told.position), told.data)
                    if data != told.data:
                        faults.append(f"{log}: {told.position} is {short(told.data)}, elsewhere {short(data)}")
        if present is not None:
            faults += self._unlike(channel, stored, present)
            stored |= {offset: data for offset, data in present.items() if data is not None}
        return stored, faults + self.misplaced(channel, stored)

    def _unlike(self, channel: str, known: Mapping[int, str], held: Held) -> Iterator[str]:
        """Say where the log does not hold what was acknowledged or told."""
        for offset, data in known.items():
            if held.get(offset) != data:
                yield f"{channel}: offset {offset} is {short(data)}, and {held.get(offset)!r} in the log"

    def misplaced(self, channel: str, stored: Mapping[int, str]) -> list[str]:
        """Return what is wrong with what is stored, data by offset: what is there twice, not, or not published."""
        offsets: dict[str, list[int]] = defaultdict(list)
        for offset, data in stored.items():
            offsets[data].append(offset)
        published = self.published(channel)
        committed = self.committed[channel] if channel not in self._sizes else set()
        return [
            *(f"{channel}: {short(data)} is stored at {at}" for data, at in offsets.items() if len(at) > 1),
            *(f"{channel}: nobody published {short(data)}" for data in offsets if data not in published),
            *(f"{channel}: {short(data)} is committed and nowhere" for data in committed - offsets.keys()),
        ]

    def _judge(self, log: Log, stored: Mapping[int, str]) -> list[str]:
        return self._judge_plain(log, stored) if log.plain else self._judge_positioned(log)

    def _judge_positioned(self, log: Log) -> list[str]:
        """Check that each message is the one after what the subscriber had, or that a gap says so."""
        faults = []
        at: str | None = None
        unsaid: str | None = None  # where a connection began that did not resume, until the gap is told
        for told in log.told:
            match told:
                case Began(position, asked, resumed):
                    unsaid = unsaid_of(told)
                    if asked is not None and asked != at:
                        faults.append(f"asked for {asked} and had {at}")
                    at = position if at is None or (resumed and unsaid is None) else at
                case Missed():
                    faults += self._judge_gap(log, told, at)
                    at, unsaid = before(told.next), None
                case Got(position, data) if position is not None:
                    if unsaid is not None:
                        faults.append(f"began at {unsaid} and not at {at}, without a gap")
                    if at is None or not self.follows(log.channel, offset_of(at), offset_of(position), data):
                        faults.append(f"{position} ({short(data)}) came after {at}")
                    at, unsaid = position, None
                case _:
                    unsaid = None
        if (reached := offset_of(at or ":0")) < (head := self.head(log.channel)):
            faults.append(f"stands at {reached}, the head is {head}")
        return faults

    def _judge_gap(self, log: Log, gap: Missed, at: str | None) -> list[str]:
        faults = []
        if gap.after != at:
            faults.append(f"{gap} came after {at}")
        size = self._sizes.get(log.channel)
        if size is None:
            faults.append(f"{gap} though everything is held")
        elif gap.reason != "expired" or at is None or offset_of(gap.next) <= offset_of(at) + 1:
            faults.append(f"{gap} came after {at}: nothing is missing")
        elif offset_of(gap.next) > max(1, self.head(log.channel) + self._doubts(log.channel) - size + 1):
            faults.append(f"{gap} leaves out what is held")
        return faults

    def _doubts(self, channel: str) -> int:
        """Return how many messages may be past the highest offset that was acknowledged."""
        return len(self.doubtful[channel]) + len(self.committed[channel])

    def _judge_plain(self, log: Log, stored: Mapping[int, str]) -> list[str]:
        """Check that each connection's messages follow each other, as far as anybody knows their positions."""
        offsets = {data: offset for offset, data in stored.items()}
        published = {*offsets, *self.published(log.channel)}
        faults, at = [], 0
        for told in log.told:
            if isinstance(told, Got):
                offset = offsets.get(told.data, at + 1)
                if told.data not in published:
                    faults.append(f"nobody published {short(told.data)}")
                if at and not self.follows(log.channel, at, offset, told.data):
                    faults.append(f"{short(told.data)}, which is {offset}, came after {at}")
                at = offset
            else:
                at = 0
        return faults


def unsaid_of(began: Began) -> str | None:
    """Return where a connection began, if a gap must come because it isn't where it was asked to begin."""
    position, asked, resumed = began
    return position if asked is not None and not (resumed and offset_of(asked) == offset_of(position)) else None


def short(data: str) -> str:
    """Return the beginning of a message's data."""
    return f"{data[:24]!r}"

"""One commit: writes records into the log in a transaction, and says what became of each. It runs in a thread."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from typing import NamedTuple

from app.bus.backend import KEY_LIFETIME
from app.bus.bodies import SEPARATOR
from app.bus.sqlite import epoch
from app.bus.sqlite.epoch import Present
from app.core.epochs import label, name
from app.core.errors import KeyReusedError
from app.core.message import Position, Published, Record
from app.core.ports import Outcome

SEGMENT_BYTES = 60_000
"""The most bytes of a row of the log, unless one message has more."""

_SEPARATOR = SEPARATOR.encode()

_JUMP_MS = 1000
"""A channel's time goes on while the clock is back by no more than this; a clock that jumped further is followed."""

_MOVE = """
    UPDATE head SET head = head + ?2, time = iif(time > ?3 AND time <= ?3 + ?4, time, ?3) WHERE channel = ?1
    RETURNING id, head, time, lineage
"""
_BEGIN = "INSERT INTO head (channel, head, time, lineage) VALUES (?, ?, ?, ?)"

_position: Callable[[Iterable[str | int]], Position] = partial(tuple.__new__, Position)
_published: Callable[[Iterable[Position | bool]], Published] = partial(tuple.__new__, Published)
"""Make the outcomes of a commit without a call of Python's for each."""


class Segment(NamedTuple):
    """A row of the log: messages of one channel, with consecutive offsets."""

    channel: str
    epoch: str
    """The name of the epoch that they belong to."""
    last: int
    n: int
    time: int
    body: bytes


class Draft:
    """Records on their way into the log, put in order before the file is locked."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.lanes: dict[str, list[int]] = {}
        """Which records each channel gets, unless their keys are known."""
        self.keyed: dict[tuple[str, str], int] = {}
        """The first record of each key."""
        self.repeats: dict[int, int] = {}
        """Records that have the key of an earlier one, which is the value."""
        for index, record in enumerate(records):
            channel, _, key, _ = record
            if key is not None:
                leader = self.keyed.setdefault((channel, record.scoped_key), index)
                if leader != index:
                    self.repeats[index] = leader
                    continue
            lane = self.lanes.get(channel)
            if lane is None:
                self.lanes[channel] = [index]
            else:
                lane.append(index)


class _Lane(NamedTuple):
    """What one channel gets in the transaction that is open."""

    channel: str
    records: list[Record]
    now: int
    """Milliseconds since 1970."""
    present: Present


@dataclass(slots=True)
class Commit:
    """What a transaction does: ``outcomes`` are those of the records, in their order."""

    outcomes: list[Outcome] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    number: int = 0
    """The number of this commit; 0 if there was nothing to write."""
    has_begun_epoch: bool = False


def write(connection: sqlite3.Connection, draft: Draft, seen: int) -> Commit:
    """Write the records in the transaction that is open; ``seen`` is how many commits the log had at least.

    Where the log has gone back, an epoch begins first. Undo the transaction if the commit has no number.
    """
    present = epoch.count(connection)
    commit = Commit(has_begun_epoch=epoch.is_over(present, seen + 1))
    if commit.has_begun_epoch:
        present = epoch.change(connection, seen)
    now = int(time.time() * 1000)
    known = _known(connection, draft, now, present)
    outcomes = dict(known)
    for channel, lane in draft.lanes.items():
        if indexes := [index for index in lane if index not in known] if known else lane:
            records = [draft.records[index] for index in indexes]
            stored = _append(connection, commit.segments, _Lane(channel, records, now, present))
            outcomes.update(zip(indexes, stored, strict=True))
    for index, leader in draft.repeats.items():
        outcomes[index] = _repeated(draft.records[index], draft.records[leader], outcomes[leader])
    commit.outcomes = [outcomes[index] for index in range(len(draft.records))]
    if commit.segments or commit.has_begun_epoch:
        commit.number = present.commits
    return commit


def _known(connection: sqlite3.Connection, draft: Draft, now: int, present: Present) -> dict[int, Outcome]:
    """Return the outcomes of records whose keys were used before."""
    found = {index: _stored(connection, draft.records[index], now, present) for index in draft.keyed.values()}
    return {index: outcome for index, outcome in found.items() if outcome is not None}


def _stored(connection: sqlite3.Connection, record: Record, now: int, present: Present) -> Outcome | None:
    """Return the outcome of a record whose key was used before; None if its key is new."""
    row = connection.execute(
        "SELECT k.hash, k.position, h.head, h.lineage FROM key k LEFT JOIN head h ON h.channel = k.channel"
        " WHERE k.channel = ? AND k.key = ? AND k.time > ?",
        (record.channel, record.scoped_key, now - KEY_LIFETIME * 1000),
    ).fetchone()
    if row is None:
        return None
    hash_, offset, head, lineage = row
    if hash_ != _hash(record):
        return KeyReusedError.of(record.key)
    lineage = present.lineage if head is None else epoch.continued(lineage, head, present.lineage)
    return Published(Position(label(lineage), offset), replayed=True)


def _repeated(record: Record, leader: Record, outcome: Outcome) -> Outcome:
    """Return the outcome of a record with the same key as an earlier one of this commit."""
    if not isinstance(outcome, Published):
        return outcome
    return Published(outcome.position, replayed=True) if record.data == leader.data else KeyReusedError.of(record.key)


def _append(connection: sqlite3.Connection, segments: list[Segment], lane: _Lane) -> Iterable[Outcome]:
    """Append the records of one channel, add their segments, and return their outcomes."""
    id_, head, now, lineage = _move(connection, lane)
    first = head - len(lane.records) + 1
    last, belongs = first - 1, name(lineage)
    for n, body in _bodies([record.data for record in lane.records]):
        last += n
        connection.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?)", (id_, last, n, now, body))
        segments.append(Segment(lane.channel, belongs, last, n, now, body))
    if keys := [
        (lane.channel, record.scoped_key, _hash(record), offset, now)
        for offset, record in enumerate(lane.records, first)
        if record.key is not None
    ]:
        connection.executemany("INSERT OR REPLACE INTO key VALUES (?, ?, ?, ?, ?)", keys)
    positions = map(_position, zip(repeat(label(lineage)), range(first, head + 1), strict=False))
    return map(_published, zip(positions, repeat(False), strict=False))  # noqa: FBT003 — nothing was replayed


def _move(connection: sqlite3.Connection, lane: _Lane) -> tuple[int, int, int, str]:
    """Move the channel's head; return the channel's number, the head, the time of its messages, and its lineage."""
    channel, records, now, present = lane
    row = connection.execute(_MOVE, (channel, len(records), now, _JUMP_MS)).fetchone()
    if row is None:
        head, lineage = present.floor + len(records), present.lineage
        begun = connection.execute(_BEGIN, (channel, head, now, lineage))
        return int(begun.lastrowid or 0), head, now, lineage
    id_, head, now, before = row
    lineage = epoch.continued(before, head - len(records), present.lineage)
    if lineage != before:
        connection.execute("UPDATE head SET lineage = ? WHERE id = ?", (lineage, id_))
    return id_, head, now, lineage


def _bodies(datas: list[bytes]) -> Iterator[tuple[int, bytes]]:
    """Cut a channel's messages into segments of at most :data:`SEGMENT_BYTES`, or of one message; yield n and body."""
    whole = _SEPARATOR.join(datas)
    if len(whole) <= SEGMENT_BYTES:
        yield len(datas), whole
        return
    part: list[bytes] = []
    size = 0
    for data in datas:
        if part and size + len(data) + 1 > SEGMENT_BYTES:
            yield len(part), _SEPARATOR.join(part)
            part, size = [], 0
        part.append(data)
        size += len(data) + 1
    yield len(part), _SEPARATOR.join(part)


def _hash(record: Record) -> bytes:
    return hashlib.sha256(record.data).digest()

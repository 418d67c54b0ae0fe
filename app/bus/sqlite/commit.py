"""One commit: writes records into the log in a transaction, and says what became of each. It runs in a thread."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
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


class Segment(NamedTuple):
    """A row of the log: messages of one channel, with consecutive offsets."""

    channel: str
    epoch: str
    """The name of the epoch that they belong to."""
    last: int
    n: int
    time: int
    body: bytes


class _Place(NamedTuple):
    """Where a channel is in the transaction that is open."""

    id: int | None
    """Its number in the table of heads; None if it has none yet."""
    head: int
    time: int
    lineage: str


@dataclass(slots=True)
class Commit:
    """What a transaction does: ``outcomes`` are those of the records, in their order."""

    outcomes: list[Outcome] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    number: int = 0
    """The number of this commit; 0 if there was nothing to write."""
    has_begun_epoch: bool = False


def write(connection: sqlite3.Connection, records: Sequence[Record], seen: int) -> Commit:
    """Write the records in the transaction that is open; ``seen`` is how many commits the log had at least.

    Where the log has gone back, an epoch begins first.
    """
    present = epoch.read(connection)
    commit = Commit(has_begun_epoch=epoch.is_over(present, seen))
    if commit.has_begun_epoch:
        present = epoch.change(connection, seen)
    now = int(time.time() * 1000)
    outcomes: dict[int, Outcome] = {}
    repeats: dict[int, int] = {}
    lanes = _lanes(connection, records, now, present, outcomes, repeats)
    for indexes in lanes.values():
        mine = [records[index] for index in indexes]
        outcomes.update(zip(indexes, _append(connection, commit.segments, mine, now, present), strict=True))
    for index, leader in repeats.items():
        outcomes[index] = _repeated(records[index], records[leader], outcomes[leader])
    commit.outcomes = [outcomes[index] for index in range(len(records))]
    if lanes or commit.has_begun_epoch:
        commit.number = present.commits + 1
        connection.execute("UPDATE installation SET commits = ?", (commit.number,))
    return commit


def _lanes(  # noqa: PLR0913, PLR0917 — the transaction, and what it fills
    connection: sqlite3.Connection,
    records: Sequence[Record],
    now: int,
    present: Present,
    outcomes: dict[int, Outcome],
    repeats: dict[int, int],
) -> dict[str, list[int]]:
    """Return which records are to be stored, by channel; the others have an outcome, or repeat one of these."""
    lanes: dict[str, list[int]] = {}
    first: dict[tuple[str, str], int] = {}
    for index, record in enumerate(records):
        if record.key is not None:
            scoped = record.channel, record.scoped_key
            if (leader := first.setdefault(scoped, index)) != index:
                repeats[index] = leader
                continue
            if known := _known(connection, record, now, present):
                outcomes[index] = known
                continue
        lanes.setdefault(record.channel, []).append(index)
    return lanes


def _known(connection: sqlite3.Connection, record: Record, now: int, present: Present) -> Outcome | None:
    """Return the outcome of a record whose key was used before; None if its key is new."""
    found = connection.execute(
        "SELECT hash, position FROM key WHERE channel = ? AND key = ? AND time > ?",
        (record.channel, record.scoped_key, now - KEY_LIFETIME * 1000),
    ).fetchone()
    if found is None:
        return None
    hash_, offset = found
    if hash_ != _hash(record):
        return KeyReusedError.of(record.key)
    return Published(Position(label(_place(connection, record.channel, present).lineage), offset), replayed=True)


def _repeated(record: Record, leader: Record, outcome: Outcome) -> Outcome:
    """Return the outcome of a record with the same key as an earlier one of this commit."""
    if not isinstance(outcome, Published):
        return outcome
    return Published(outcome.position, replayed=True) if record.data == leader.data else KeyReusedError.of(record.key)


def _place(connection: sqlite3.Connection, channel: str, present: Present) -> _Place:
    row = connection.execute("SELECT id, head, time, lineage FROM head WHERE channel = ?", (channel,)).fetchone()
    if row is None:
        return _Place(None, present.floor, 0, present.lineage)
    id_, head, time_, lineage = row
    return _Place(id_, head, time_, epoch.continued(lineage, head, present.lineage))


def _append(
    connection: sqlite3.Connection, segments: list[Segment], records: Sequence[Record], now: int, present: Present
) -> list[Outcome]:
    """Append the records of one channel, add their segments, and return their outcomes."""
    channel = records[0].channel
    id_, before, taken, lineage = _place(connection, channel, present)
    now = taken if 0 < taken - now <= _JUMP_MS else now
    head = before + len(records)
    if id_ is None:
        id_ = connection.execute(
            "INSERT INTO head (channel, head, time, lineage) VALUES (?, ?, ?, ?)", (channel, head, now, lineage)
        ).lastrowid
    else:
        connection.execute("UPDATE head SET head = ?, time = ?, lineage = ? WHERE id = ?", (head, now, lineage, id_))
    last, belongs = before, name(lineage)
    for datas in _parts([record.data for record in records]):
        last += len(datas)
        segment = Segment(channel, belongs, last, len(datas), now, _SEPARATOR.join(datas))
        connection.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?)", (id_, *segment[2:]))
        segments.append(segment)
    if keys := list(_keys(records, before, now)):
        connection.executemany("INSERT OR REPLACE INTO key VALUES (?, ?, ?, ?, ?)", keys)
    named = label(lineage)
    return [Published(Position(named, offset)) for offset in range(before + 1, head + 1)]


def _keys(records: Iterable[Record], before: int, now: int) -> Iterator[tuple[object, ...]]:
    for offset, record in enumerate(records, before + 1):
        if record.key is not None:
            yield record.channel, record.scoped_key, _hash(record), offset, now


def _parts(datas: list[bytes]) -> Iterator[list[bytes]]:
    """Cut a channel's messages into segments of at most :data:`SEGMENT_BYTES`, or of one message."""
    part: list[bytes] = []
    size = 0
    for data in datas:
        if part and size + len(data) + 1 > SEGMENT_BYTES:
            yield part
            part, size = [], 0
        part.append(data)
        size += len(data) + 1
    yield part


def _hash(record: Record) -> bytes:
    return hashlib.sha256(record.data).digest()

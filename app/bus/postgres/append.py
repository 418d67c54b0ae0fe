"""One commit: records into the query that stores them, its rows into outcomes. No I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

from app.bus.postgres.listen.notifications import MAX_INLINE_BODY, SEPARATOR
from app.core.epochs import label
from app.core.errors import KeyReusedError
from app.core.message import Position, Published, Record
from app.core.ports import Outcome

MAX_INLINE_COMMIT = 64 * 1024
"""Bytes of a commit that is still carried inside NOTIFY: its queue is copied for every listener."""

SEGMENT_BYTES = 60_000
"""Bytes of a row of the log, unless one message has more."""

Row = tuple[bool, int, int, bytes | None, str]
"""What ``abide.store`` returns: known, i, offset, hash, lineage."""


@dataclass(slots=True)
class _Lane:
    """The messages of one channel in this commit, in order."""

    number: int
    """1-based, as SQL counts."""
    indexes: list[int] = field(default_factory=list)
    """Of the records, in the commit."""


@dataclass(slots=True)
class Commit:
    """Some records on their way; :meth:`settle` is called with rows until nothing is left open.

    ``inline`` tells whether messages may be carried inside NOTIFY, None to notify nobody.
    """

    records: Sequence[Record]
    inline: bool | None
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    _first: dict[tuple[str, str], int] = field(default_factory=dict)
    _lanes: dict[str, _Lane] = field(default_factory=dict)
    _keyed: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        for index, record in enumerate(self.records):
            if record.key is not None:
                self._first.setdefault((record.channel, record.scoped_key), index)

    def open(self) -> list[int]:
        """Return the indexes of the records that still have to be stored."""
        if len(self.outcomes) == len(self.records):
            return []
        if not self._first and not self.outcomes:  # without keys they are all stored together, as a rule
            return list(range(len(self.records)))
        return [
            index
            for index, record in enumerate(self.records)
            if index not in self.outcomes and self._leader(index, record) == index
        ]

    def call(self) -> tuple[str, Sequence[object]]:
        """Return the name of the query that stores the open records, and its arguments."""
        arguments = self.arguments()
        channels, _, _, _, counts, bodies, inline, keyed, *_ = arguments
        if len(bodies) == 1 and not keyed:
            return "store_one", (channels[0], counts[0], bodies[0], inline[0])
        return "store", arguments

    def arguments(self) -> tuple[list[object], ...]:
        """Return the arguments of ``abide.store`` for the open records."""
        indexes = self.open()
        self._lanes = {}
        for index in indexes:
            channel = self.records[index].channel
            lane = self._lanes.get(channel)
            if lane is None:
                lane = self._lanes[channel] = _Lane(len(self._lanes) + 1)
            lane.indexes.append(index)
        channels: list[object] = list(self._lanes)
        counts: list[object] = [len(lane.indexes) for lane in self._lanes.values()]
        return (channels, counts, *self._segments(indexes), *self._keys())

    def settle(self, rows: Iterable[tuple[object, ...]]) -> None:
        """Take what the database answered to :meth:`call`."""
        lanes = {lane.number: lane for lane in self._lanes.values()}
        for known, i, offset, hash_, lineage in map(_row, rows):
            epoch = label(lineage)
            if known:
                index = self._keyed[i - 1]
                self.outcomes[index] = self._judge(index, Position(epoch, offset), hash_)
            else:
                indexes = lanes[i].indexes
                for place, index in enumerate(indexes, offset - len(indexes) + 1):
                    self.outcomes[index] = Published(Position(epoch, place))

    def result(self) -> list[Outcome]:
        """Return one outcome for each record; valid when none is open."""
        if not self._first:
            return [self.outcomes[index] for index in range(len(self.records))]
        return [self._outcome(index, record) for index, record in enumerate(self.records)]

    def _leader(self, index: int, record: Record) -> int:
        """Return the index of the first record with the same key."""
        return index if record.key is None else self._first[record.channel, record.scoped_key]

    def _outcome(self, index: int, record: Record) -> Outcome:
        leader = self._leader(index, record)
        outcome = self.outcomes[leader]
        if leader == index or not isinstance(outcome, Published):
            return outcome
        if self.records[leader].data != record.data:
            return KeyReusedError.of(record.key)
        return Published(outcome.position, replayed=True)

    def _judge(self, index: int, position: Position, hash_: bytes | None) -> Outcome:
        record = self.records[index]
        if hash_ != _hash(record):
            return KeyReusedError.of(record.key)
        return Published(position, replayed=True)

    def _segments(self, indexes: list[int]) -> list[list[object]]:
        """Return channel numbers, counts up to each segment's end, counts, bodies, and whether inline."""
        inline = self.inline and sum(len(self.records[index].data) for index in indexes) <= MAX_INLINE_COMMIT
        limit = MAX_INLINE_BODY if inline else SEGMENT_BYTES
        columns: list[list[object]] = [[], [], [], [], []]
        for lane in self._lanes.values():
            upto = 0
            for datas in _parts([self.records[index].data for index in lane.indexes], limit):
                upto += len(datas)
                body = SEPARATOR.encode().join(datas)
                row = (lane.number, upto, len(datas), body.decode(), inline and len(body) <= MAX_INLINE_BODY)
                for column, value in zip(columns, row, strict=True):
                    column.append(value)
        return columns

    def _keys(self) -> list[list[object]]:
        """Return channel numbers, places in the channel, keys and hashes; remember whose they are."""
        self._keyed = []
        columns: list[list[object]] = [[], [], [], []]
        for lane in self._lanes.values():
            for place, index in enumerate(lane.indexes, 1):
                record = self.records[index]
                if record.key is not None:
                    self._keyed.append(index)
                    for column, value in zip(
                        columns, (lane.number, place, record.scoped_key, _hash(record)), strict=True
                    ):
                        column.append(value)
        return columns


def _parts(datas: list[bytes], limit: int) -> Iterable[list[bytes]]:
    """Cut a channel's messages into segments of at most ``limit`` bytes, or of one message."""
    part: list[bytes] = []
    size = 0
    for data in datas:
        if part and size + len(data) + 1 > limit:
            yield part
            part, size = [], 0
        part.append(data)
        size += len(data) + 1
    yield part


def _row(row: tuple[object, ...]) -> Row:
    """Return a row of ``abide.store``; of ``abide.store_one``, which returns one text, what it would be there."""
    if len(row) > 1:
        return cast("Row", row)
    head, _, lineage = str(row[0]).partition(" ")
    return False, 1, int(head), None, lineage


def _hash(record: Record) -> bytes:
    return hashlib.sha256(record.data).digest()

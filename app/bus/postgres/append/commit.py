"""One commit: turns records into the statement that stores them, and its rows into outcomes. No I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from app.bus.bodies import SEPARATOR
from app.core.epochs import label
from app.core.errors import KeyReusedError
from app.core.message import Position, Published, Record
from app.core.ports import Outcome

MAX_INLINE_COMMIT = 64 * 1024
"""The most bytes of a commit that notifications carry: every listener gets a copy of the queue."""

MAX_INLINE_BODY = 7600
"""Bytes of a body that fit into one notification (8000) beside the longest name and the numbers."""

SEGMENT_BYTES = 60_000
"""The most bytes of a row of the log, unless one message has more."""


class Row(NamedTuple):
    """A row that ``abide.store`` returns: a key that is known already, or a channel that got messages."""

    known: bool
    i: int
    """1-based: which of the keys, or of the channels."""
    offset: int
    """What is stored under the key, or the channel's new head."""
    hash: bytes | None
    """The digest of the data stored under the key."""
    lineage: str


class StoreArguments(NamedTuple):
    """The arguments of ``abide.store``, by the names that it has there. Channels are numbered from 1."""

    channels: list[str]
    counts: list[int]
    seg_channel: list[int]
    seg_upto: list[int]
    """How many messages of the channel there are up to the end of the segment."""
    seg_n: list[int]
    seg_body: list[str]
    seg_inline: list[bool | None]
    key_channel: list[int]
    key_place: list[int]
    """The message's number among those of its channel, from 1."""
    key_text: list[str]
    key_hash: list[bytes]


class StoreOneArguments(NamedTuple):
    """The arguments of ``abide.store_one``."""

    channel: str
    n: int
    body: str
    inline: bool | None


@dataclass(slots=True)
class _Lane:
    """The messages of one channel in this commit, in order."""

    number: int
    """1-based, as SQL counts."""
    indexes: list[int] = field(default_factory=list)
    """Of the records, in the commit."""


@dataclass(slots=True)
class Commit:
    """Some records on their way into the log: call :meth:`settle` with rows until none is left open.

    ``inline`` says whether notifications may carry messages; None notifies nobody.
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
        if not self._first and not self.outcomes:  # as most commits: without keys, everything is stored together
            return list(range(len(self.records)))
        return [
            index
            for index, record in enumerate(self.records)
            if index not in self.outcomes and self._leader(index, record) == index
        ]

    def call(self) -> tuple[str, StoreArguments | StoreOneArguments]:
        """Return the name of the statement that stores the open records, and its arguments."""
        all_ = self.arguments()
        if len(all_.seg_n) == 1 and not all_.key_text:
            return "store_one", StoreOneArguments(all_.channels[0], all_.seg_n[0], all_.seg_body[0], all_.seg_inline[0])
        return "store", all_

    def arguments(self) -> StoreArguments:
        """Return the arguments of ``abide.store`` for the open records."""
        indexes = self.open()
        self._lanes = {}
        for index in indexes:
            channel = self.records[index].channel
            lane = self._lanes.get(channel)
            if lane is None:
                lane = self._lanes[channel] = _Lane(len(self._lanes) + 1)
            lane.indexes.append(index)
        counts = [len(lane.indexes) for lane in self._lanes.values()]
        arguments = StoreArguments(list(self._lanes), counts, [], [], [], [], [], [], [], [], [])
        self._add_segments(arguments, indexes)
        self._add_keys(arguments)
        return arguments

    def settle(self, rows: Iterable[Sequence[object]]) -> None:
        """Take the rows that the database returned for :meth:`call`."""
        lanes = {lane.number: lane for lane in self._lanes.values()}
        for row in map(_row, rows):
            epoch = label(row.lineage)
            if row.known:
                index = self._keyed[row.i - 1]
                self.outcomes[index] = self._judge(index, Position(epoch, row.offset), row.hash)
            else:
                indexes = lanes[row.i].indexes
                for place, index in enumerate(indexes, row.offset - len(indexes) + 1):
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

    def _add_segments(self, arguments: StoreArguments, indexes: list[int]) -> None:
        inline = self.inline and sum(len(self.records[index].data) for index in indexes) <= MAX_INLINE_COMMIT
        limit = MAX_INLINE_BODY if inline else SEGMENT_BYTES
        for lane in self._lanes.values():
            upto = 0
            for datas in _parts([self.records[index].data for index in lane.indexes], limit):
                upto += len(datas)
                body = SEPARATOR.encode().join(datas)
                arguments.seg_channel.append(lane.number)
                arguments.seg_upto.append(upto)
                arguments.seg_n.append(len(datas))
                arguments.seg_body.append(body.decode())
                arguments.seg_inline.append(inline and len(body) <= MAX_INLINE_BODY)

    def _add_keys(self, arguments: StoreArguments) -> None:
        """Add the keys, and remember which record each is of."""
        self._keyed = []
        for lane in self._lanes.values():
            for place, index in enumerate(lane.indexes, 1):
                record = self.records[index]
                if record.key is not None:
                    self._keyed.append(index)
                    arguments.key_channel.append(lane.number)
                    arguments.key_place.append(place)
                    arguments.key_text.append(record.scoped_key)
                    arguments.key_hash.append(_hash(record))


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


def _row(row: Sequence[object]) -> Row:
    """Return a row of ``abide.store``. ``abide.store_one`` returns one text, which holds the same."""
    if len(row) > 1:
        return Row._make(row)
    head, _, lineage = str(row[0]).partition(" ")
    return Row(False, 1, int(head), None, lineage)  # noqa: FBT003 — by name it takes longer, and most commits are so


def _hash(record: Record) -> bytes:
    return hashlib.sha256(record.data).digest()

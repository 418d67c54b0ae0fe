"""Records of a topic as messages, and messages as a batch of records.

A record's value is the message's data as it came. Beside it are headers: ``abide-time`` (its milliseconds since 1970,
in digits), ``abide-key`` (the idempotency key with its publisher's name before it) with ``abide-seen`` (up to which of
Kafka's offsets its writer had looked for the key), and, on the first record of a batch, ``abide-batch`` (a random name,
by which a batch whose outcome is unknown is found again).

Whoever may write to a topic can write records of any kind:

* A value that is no JSON, or is nested too deep, becomes a JSON string; it is cut where it is larger than a message.
* A value that is no UTF-8 becomes ``{"base64": "…"}``. No value (a tombstone) is ``null``.
* An offset that has no record for readers (the mark of a transaction, a record of one that was aborted, a record that
  compaction took) is a message without data, which is sent to nobody. It is no gap. More than :data:`MOST_SKIPPED` in a
  row are left out, which is one.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from app.core import data
from app.core.channel import MAX_MESSAGE_SIZE
from app.core.errors import MalformedError
from app.core.message import Message, Record
from app.core.scan import MAX_DEPTH

TIME, KEY, SEEN, BATCH = "abide-time", "abide-key", "abide-seen", "abide-batch"

MOST_SKIPPED = 256

CHECKED_BYTES = 4096
"""The most bytes of a record of ours whose JSON is read again."""

_MAGIC = 2
_HEAD = struct.Struct(">qii")
"""Where a batch begins: its first offset, its length after that number, and the epoch of its leader."""
_BEFORE_LENGTH = 12

_LONGEST_ESCAPE = 6
"""The most bytes that a character of a JSON string takes."""


class Stored(NamedTuple):
    """A record as it is in the topic."""

    offset: int
    """Kafka's, which begins at 0."""
    time: int
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a topic has from an offset on: as much of it as was read at once."""

    start: int
    """Kafka's offset of the oldest record that the topic still has."""
    head: int
    """Kafka's offset of the next record, which is ours of the newest one."""
    blob: bytes = field(default=b"", repr=False)
    aborted: Sequence[tuple[int, int]] = ()
    """Transactions that were aborted: their producer, and their first offset."""

    def leader_epoch(self) -> int:
        """Return the newest epoch of a leader among the batches; -1 without one."""
        found, at, end = -1, 0, len(self.blob)
        while at + _HEAD.size <= end:
            _, length, epoch = _HEAD.unpack_from(self.blob, at)
            found, at = max(found, epoch), at + _BEFORE_LENGTH + length
        return found

    def stored(self, offset: int) -> tuple[list[Stored], int]:
        """Return the records from ``offset`` on, and where the next ones begin."""
        records: list[Stored] = []
        for batch in self._batches():
            if batch is not None and batch.next_offset > offset:
                if not batch.is_control_batch:
                    records += [
                        Stored(record.offset, record.timestamp, record.value, record.headers)
                        for record in batch
                        if record.offset >= offset
                    ]
                offset = batch.next_offset
        return records, offset

    def messages(self, after: int, hidden: Container[int] = ()) -> tuple[Message, ...]:
        """Return the messages past one of our offsets, and those without data between them and for ``hidden`` ones."""
        records, end = self.stored(after)
        found: list[Message] = []
        at = max(after, self.start)  # what was trimmed is missing, not skipped
        for offset, time, value, headers in records:
            if offset != at and found:
                found += _skipped(at, offset, found[-1].time)
            elif offset != at:
                found += _skipped(at, offset, time)
            found.append(Message(offset + 1, time, b"" if offset in hidden else _as_json(value, headers)))
            at = offset + 1
        return (*found, *_skipped(at, end, found[-1].time if found else 0))

    def _batches(self) -> Iterator[Any]:
        """Yield the batches that committed readers see, and None for others, whose offsets are skipped."""
        memory, aborted, over = MemoryRecords(self.blob), sorted(self.aborted, key=lambda entry: entry[1]), set[int]()
        while memory.has_next():
            batch: Any = memory.next_batch()
            while aborted and aborted[0][1] <= batch.base_offset:
                over.add(aborted.pop(0)[0])
            if batch.is_control_batch:
                if over and ControlRecord.parse(next(iter(batch)).key) == ABORT_MARKER:
                    over.discard(batch.producer_id)
            elif batch.is_transactional and batch.producer_id in over:
                yield _Hidden(batch.next_offset)
                continue
            yield batch


class _Hidden(NamedTuple):
    """The records of a transaction that was aborted."""

    next_offset: int
    is_control_batch: bool = True


def build(records: Sequence[Record], time: int, name: str, seen: int, producer: tuple[int, int, int]) -> bytes:
    """Return a batch of the records; ``producer`` is its id, its epoch and the number of its first record."""
    builder: Any = DefaultRecordBatchBuilder(_MAGIC, 0, 0, *producer, 2**30)
    stamp: tuple[str, bytes | None] = (TIME, b"%d" % time)
    plain, first = [stamp], (BATCH, name.encode())
    for number, record in enumerate(records):
        headers = plain
        if record.key is not None:
            headers = [*headers, (KEY, record.scoped_key.encode()), (SEEN, b"%d" % seen)]
        if number == 0:
            headers = [*headers, first]
        builder.append(number, time, None, record.data, headers)
    return bytes(builder.build())


def header(record: Stored, name: str) -> str | None:
    """Return the value of one of our headers; None without it."""
    for key, value in record.headers:
        if key == name and value is not None:
            return value.decode(errors="replace")
    return None


def _skipped(begin: int, end: int, time: int) -> list[Message]:
    """Return messages without data for Kafka's offsets from ``begin`` to before ``end``; none for too many."""
    return [] if end - begin > MOST_SKIPPED else [Message(offset + 1, time, b"") for offset in range(begin, end)]


def _as_json(value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    if value is None:
        return b"null"
    is_ours = len(value) > CHECKED_BYTES and any(name == TIME for name, _ in headers)
    if len(value) <= MAX_MESSAGE_SIZE and (is_ours or _is_json(value)):
        return value
    try:
        return data.check_bytes(value) if len(value) <= MAX_MESSAGE_SIZE else _text(value.decode())
    except UnicodeDecodeError:
        return _binary(value)
    except MalformedError:
        try:
            return _text(value.decode())
        except UnicodeDecodeError:
            return _binary(value)


def _is_json(value: bytes) -> bool:
    """Whether it is JSON; False also where that takes a closer look."""
    if value.count(b"[") + value.count(b"{") > MAX_DEPTH:
        return False
    try:
        orjson.loads(value)
    except ValueError:
        return False
    return True


def _text(text: str) -> bytes:
    return json.dumps(text[: MAX_MESSAGE_SIZE // _LONGEST_ESCAPE], ensure_ascii=False).encode()


def _binary(value: bytes) -> bytes:
    return b'{"base64": "%b"}' % base64.b64encode(value[: MAX_MESSAGE_SIZE // 2])

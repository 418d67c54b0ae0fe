"""Records of a topic as messages, and messages as a batch of records.

A record's value is the message's data as it came. Beside it are headers: ``abide-time`` (its milliseconds since 1970,
in digits), ``abide-key`` (the idempotency key with its publisher's name before it) with ``abide-seen`` (up to which of
Kafka's offsets its writer had looked for the key), and, on the first record of a batch, ``abide-batch`` (a random name,
by which a batch whose outcome is unknown is found again).

Whoever may write to a topic can write records of any kind:

* A value that is no JSON, or is nested too deep, becomes a JSON string; it is cut where it is larger than a message.
* A value that is no UTF-8 becomes ``{"base64": "…"}``. No value (a tombstone) is ``null``.
* An offset of a batch that has no record for readers (the mark of a transaction, a record of one that was aborted, a
  record that compaction took) is a message without data, which is sent to nobody. It is no gap. Where whole batches
  are missing, there is one.
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
from app.core.message import Message, Record, consecutive
from app.core.scan import MAX_DEPTH

TIME, KEY, SEEN, BATCH = "abide-time", "abide-key", "abide-seen", "abide-batch"

NOTHING: Sequence[tuple[str, bytes | None]] = ((" ", None),)
"""The headers of what is in the log and no record of a reader's."""

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

    def begins(self, offset: int) -> bool:
        """Whether this holds the record at ``offset``, or says that the topic has none: else a broker left it out."""
        if offset < self.start or offset >= self.head:
            return True
        return bool(self.blob) and int(_HEAD.unpack_from(self.blob)[0]) <= offset

    def stored(self, offset: int) -> tuple[list[Stored], int]:
        """Return the records from ``offset`` on, with those that are none of a reader's, and where the next begin.

        They end before a batch that is missing.
        """
        found: list[Stored] = []
        for batch, is_hidden in self._batches():
            if batch.next_offset <= offset:
                continue
            if found and batch.base_offset > offset:
                break
            records = [] if is_hidden else [Stored(r.offset, r.timestamp, r.value, r.headers) for r in batch]
            first = max(batch.base_offset, offset)
            if len(records) != batch.next_offset - batch.base_offset:
                known = {record.offset: record for record in records}
                time = batch.max_timestamp
                records = [known.get(at) or Stored(at, time, None, NOTHING) for at in range(first, batch.next_offset)]
            found += records if first == batch.base_offset else [r for r in records if r.offset >= first]
            offset = batch.next_offset
        return found, offset

    def messages(self, after: int, hidden: Container[int] = ()) -> tuple[Message, ...]:
        """Return the messages past one of our offsets, up to one that is missing; ``hidden`` ones have no data."""
        return consecutive(
            [
                Message(at + 1, time, b"" if headers is NOTHING or at in hidden else _as_json(value, headers))
                for at, time, value, headers in self.stored(after)[0]
            ]
        )

    def _batches(self) -> Iterator[tuple[Any, bool]]:
        """Yield the batches, each with whether committed readers see nothing of it."""
        memory, aborted, over = MemoryRecords(self.blob), sorted(self.aborted, key=lambda entry: entry[1]), set[int]()
        while memory.has_next():
            batch: Any = memory.next_batch()
            while aborted and aborted[0][1] <= batch.base_offset:
                over.add(aborted.pop(0)[0])
            if batch.is_control_batch and over and ControlRecord.parse(next(iter(batch)).key) == ABORT_MARKER:
                over.discard(batch.producer_id)
            yield batch, batch.is_control_batch or (batch.is_transactional and batch.producer_id in over)


class Part(NamedTuple):
    """What a fetch says of one topic."""

    code: int
    fetched: Fetched

    def is_quiet(self, end: int) -> bool:
        """Whether there is nothing past ``end``, and nothing else to see to."""
        code, fetched = self
        return code == 0 and fetched.head == end and not fetched.blob


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

"""One commit: its records, and what is known of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from app.bus.kafka.keys import Known, digest
from app.bus.kafka.topics import Topic, position
from app.core.errors import AbideError, KeyReusedError, bare
from app.core.message import Published, Record
from app.core.ports import Outcome

MAX_BYTES = 1024 * 1024
"""The most bytes of data in one batch, but for a larger message, which has one for itself."""

Find = Callable[[Record], Known | None]
"""Returns what was stored first under a record's key."""


@dataclass(slots=True)
class TopicBatch:
    """Records of one topic on their way."""

    topic: Topic
    indexes: list[int]
    name: str
    begin: int
    """Kafka's offset of the topic's head before: the batch is there or later."""
    data: bytes = field(repr=False)
    producer: tuple[int, int] | None
    """The producer whose numbers it has; None without."""


class Commit:
    """Records that are stored together, by their indexes."""

    def __init__(self, records: Sequence[Record], deadline: float) -> None:
        self.records = records
        self.deadline = deadline
        self.last: BaseException | None = None
        """Why the last attempt failed."""
        self.doubtful: dict[str, TopicBatch] = {}
        """Batches that were sent and whose outcome is unknown, by topic."""
        self.uncertain: set[int] = set()
        """Records that are sent again though an earlier batch with them may have been stored."""
        self.limit: dict[str, int] = {}
        """The most records of a topic's next batch, where a larger one was refused."""
        self.must_wait = False
        """Whether to wait a moment before the next attempt."""
        self._outcomes: dict[int, Outcome] = {}
        self._repeats: dict[int, int] = {}
        """Records whose key is that of an earlier one of this commit, and that one."""
        self._by_channel: dict[str, list[int]] = {}
        for index, record in enumerate(records):
            self._by_channel.setdefault(record.channel, []).append(index)
        self._keyed = {record.channel for record in records if record.key is not None}

    def open(self) -> list[int]:
        """Return the records without an outcome."""
        if len(self._outcomes) == len(self.records):
            return []
        return [index for index in range(len(self.records)) if index not in self._outcomes]

    def channels(self) -> list[str]:
        """Return the channels of open records."""
        return [channel for channel in self._by_channel if self.of(channel)]

    def has_keys(self, channel: str) -> bool:
        """Whether a record of the channel has a key."""
        return channel in self._keyed

    def of(self, channel: str) -> list[int]:
        """Return the open records of a channel."""
        return [index for index in self._by_channel[channel] if index not in self._outcomes]

    def new(self, channel: str, find: Find, topic: Topic) -> list[int]:
        """Settle a channel's records whose key ``find`` knows; return those to store, as many as one batch may have."""
        found: list[int] = []
        size = 0
        first: dict[str, int] = {}
        most = self.limit.get(topic.name, len(self.records))
        for index in self.of(channel):
            record = self.records[index]
            if record.key is not None and self._is_settled(index, record, find, topic, first):
                continue
            size += len(record.data)
            if found and (size > MAX_BYTES or len(found) == most):
                break
            found.append(index)
            if record.key is not None:
                first[record.scoped_key] = index
        return found

    def settle(self, index: int, outcome: Outcome) -> None:
        """Learn what became of a record, and of those that repeat its key."""
        self._outcomes[index] = outcome
        for other, first in list(self._repeats.items()):
            if first == index and other not in self._outcomes:
                again = outcome._replace(replayed=True) if isinstance(outcome, Published) else outcome
                self._outcomes[other] = again
                del self._repeats[other]

    def settle_stored(self, index: int, topic: Topic, offset: int, first: Known | None) -> None:
        """Learn that a record is stored at one of our offsets, unless another one had its key ``first``."""
        if first is None or first.offset >= offset:
            self.settle(index, Published(position(topic, offset)))
        elif first.data == digest(self.records[index].data):
            self.settle(index, Published(position(topic, first.offset), replayed=True))
        else:
            self.settle(index, bare(KeyReusedError.of(self.records[index].key)))

    def refuse(self, indexes: Iterable[int], error: AbideError) -> None:
        """Refuse records."""
        for index in indexes:
            self.settle(index, bare(error))

    def result(self) -> list[Outcome]:
        """Return the outcomes, in the order of the records."""
        return [self._outcomes[index] for index in range(len(self.records))]

    def _is_settled(self, index: int, record: Record, find: Find, topic: Topic, first: dict[str, int]) -> bool:
        known, earlier = find(record), first.get(record.scoped_key)
        if known is not None:
            self.settle_stored(index, topic, known.offset + 1, known)
        elif earlier is not None:
            if self.records[earlier].data == record.data:
                self._repeats[index] = earlier
            else:
                self.settle(index, bare(KeyReusedError.of(record.key)))
        return known is not None or earlier is not None

"""Reads of topics: what they have from an offset on, where they are, and the pages of a history."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from aiokafka.errors import KafkaError
from aiokafka.protocol.offset import OffsetRequest

from app.bus.backend import PAGE_BYTES
from app.bus.kafka.brokers import broker_errors
from app.bus.kafka.brokers.cluster import ANSWER_SECONDS, Cluster, Purpose
from app.bus.kafka.brokers.fetch import FetchRequest
from app.bus.kafka.records import Fetched, Part, Stored
from app.bus.kafka.repeats import repeats
from app.bus.kafka.topics import NOWHERE, Oldest, Topic, Topics
from app.bus.place import Place
from app.bus.reads.together import Together
from app.core.channel import HistoryWindow
from app.core.errors import UnavailableError
from app.core.message import Message, Page, consecutive
from app.core.tail import fitting

MAX_BYTES = 4 * 1024 * 1024
"""The most bytes of one fetch; a batch of records is never split."""

PART_BYTES = 1024 * 1024
"""The most bytes of one topic in a fetch."""

_WAITS = (0.001, 0.1, 1.0)
"""How many seconds a read waits. Tansu answers nothing to a fetch that waits for none, and stops at its end."""

_WAIT_PER_TOPIC = 0.0002
"""How much longer a fetch of several topics waits for each."""

_MOST_TOGETHER = 500
"""How many reads that wait are one fetch, if what they may bring is no more than one may have."""

_COMMITTED = 1
_EARLIEST = -2
_ATTEMPTS = 5
_REST_SECONDS = 0.05


class _From(NamedTuple):
    """What is asked for: what a topic has from one of Kafka's offsets on."""

    topic: Topic
    offset: int


class Log:
    """Reads over connections of their own. Methods raise :class:`UnavailableError`, and what the cluster's do."""

    def __init__(self, cluster: Cluster, topics: Topics, clock: Callable[[], float]) -> None:
        self._cluster = cluster
        self._topics = topics
        self._clock = clock
        self._waiting: dict[tuple[int, int], Together[_From, Part | None]] = {}
        """Reads that wait for a broker, by how many bytes of a topic they want."""

    def close(self) -> None:
        """Refuse what waits."""
        for waiting in self._waiting.values():
            waiting.close()

    async def fetch(
        self,
        node: int,
        purpose: Purpose,
        wanted: Iterable[tuple[Topic, int]],
        *,
        wait: float,
        most: int = PART_BYTES,
    ) -> dict[str, Part]:
        """Return, by the topics' names, what they have from Kafka's offsets on; wait so many seconds for anything."""
        asked = {topic.name: topic for topic, _ in wanted}
        offsets = [(topic.name, topic.leader_epoch, offset) for topic, offset in wanted]
        request = FetchRequest(offsets, wait=wait, most=max(MAX_BYTES, most), most_of_one=most)
        answer = await self._cluster.ask(node, purpose, request, seconds=ANSWER_SECONDS + wait)
        found: dict[str, Part] = {}
        for name, code, head, start, aborted, blob in answer.parts:
            topic = asked[name]
            if not (blob or code) and topic.idle is not None and topic.head == head and topic.start == start:
                found[name] = topic.idle
                continue
            part = found[name] = Part(code, Fetched(start, head, blob, aborted))
            if code == 0:
                topic.start, topic.head, topic.idle = start, head, None if blob else part
        return found

    async def read(self, topic: Topic, offset: int, *, most: int = PART_BYTES) -> Fetched:
        """Return what a topic has from one of Kafka's offsets on, or from the nearest that it has."""
        for _ in range(_ATTEMPTS):
            if topic.leader < 0:
                reason = f"topic {topic.name} has no leader"
                raise UnavailableError(broker_errors.NOT_READY) from broker_errors.TopicError(reason)
            code, fetched = await self._part(topic, offset, most)
            if code == 0:
                return fetched
            if code != broker_errors.OUT_OF_RANGE:
                if code in broker_errors.MOVED:
                    self._topics.forget(topic)
                raise UnavailableError(broker_errors.NOT_READY) from broker_errors.TopicError(
                    broker_errors.of_code(code, f"topic {topic.name}")
                )
            offset = await self._nearest(topic, offset)
        raise UnavailableError(broker_errors.NOT_READY) from KafkaError(
            f"topic {topic.name} is trimmed faster than it is read"
        )

    async def messages(self, topic: Topic, fetched: Fetched, after: int) -> tuple[Message, ...]:
        """Return the messages past one of our offsets, without data where they repeat the key of an earlier one."""

        async def earlier(low: int, high: int) -> list[Stored]:
            found: list[Stored] = []
            while low < high:
                records, end = (before := await self.read(topic, low)).stored(low)
                found += [record for record in records if record.offset < high]
                if end >= before.head or end <= low:
                    break
                low = end
            return found

        begin = max(after, fetched.start)
        return fetched.messages(after, await repeats(fetched.stored(begin)[0], begin, earlier))

    async def place(self, topic: Topic | None) -> Place:
        """Return where a channel is."""
        if topic is None:
            return Place(NOWHERE, 0)
        fetched = await self.read(topic, topic.head, most=1)
        if fetched.leader_epoch() > topic.leader_epoch:
            await self._topics.look([topic.name])
            raise UnavailableError(broker_errors.NOT_READY) from KafkaError(f"topic {topic.name} has another leader")
        return Place(topic.lineage, fetched.head)

    async def places(self, topics: Mapping[str, Topic | None]) -> dict[str, Place]:
        """Return where channels are, without those of which a broker does not say so now."""
        results = await asyncio.gather(*(self.place(topic) for topic in topics.values()), return_exceptions=True)
        found: dict[str, Place] = {}
        for channel, result in zip(topics, results, strict=True):
            if isinstance(result, Place):
                found[channel] = result
            elif not isinstance(result.__cause__, broker_errors.TopicError):
                raise result
        return found

    async def next(self, topic: Topic | None, after: int) -> tuple[Place, tuple[Message, ...]]:
        """Return where a channel is, and its next messages past one of our offsets."""
        if topic is None:
            return Place(NOWHERE, 0), ()
        fetched = await self.read(topic, after)
        return Place(topic.lineage, fetched.head), consecutive(await self.messages(topic, fetched, after))

    async def page(self, topic: Topic | None, after: int, limit: int, history: HistoryWindow) -> Page:
        """Read what the history shows; see :meth:`app.bus.backend.Backend.read`."""
        if topic is None:
            return Page(1, 0, (), NOWHERE)
        guess = min(max(after, topic.head - history.size), topic.head)
        fetched = await self.read(topic, guess, most=2 * PAGE_BYTES if limit else 1)
        first = await self.first(topic, fetched, history)
        begin = max(after + 1, first)
        if not limit or begin > fetched.head:
            return Page(first, fetched.head, (), topic.lineage)
        found = [message for message in await self.messages(topic, fetched, guess) if message.offset >= begin]
        if not found or found[0].offset > begin:
            fetched = await self.read(topic, begin - 1, most=2 * PAGE_BYTES)
            found = [message for message in await self.messages(topic, fetched, begin - 1) if message.offset >= begin]
        return Page(first, fetched.head, fitting(consecutive(found)[:limit], PAGE_BYTES), topic.lineage)

    async def first(self, topic: Topic, fetched: Fetched, history: HistoryWindow) -> int:
        """Return our offset of the oldest message that the history shows; one past the head where it shows none."""
        begin = max(fetched.start, fetched.head - history.size)
        since = int((self._clock() - history.ttl) * 1000)
        if begin >= fetched.head:
            return fetched.head + 1
        known = topic.oldest.first(begin, since) if topic.oldest else None
        if known is None:
            after = topic.oldest.after(begin, since) if topic.oldest else begin
            known, time = await self.since(topic, after, fetched.head, since)
            topic.oldest = Oldest(known, time, begin, since)
        return known + 1

    async def since(self, topic: Topic, begin: int, end: int, since: int) -> tuple[int, int]:
        """Return Kafka's offset and the time of the first record between two that is not older; ``end`` where all are.

        Times are taken to ascend, as they do but for differences of clocks.
        """
        low, high, time = begin, end, 0
        at = begin  # mostly the first one will do
        while low < high:
            fetched = await self.read(topic, at, most=1)
            records, _ = fetched.stored(at)
            young = next((record for record in records if record.time >= since), None)
            if young is None:
                low = max(records[-1].offset + 1 if records else at + 1, low)
            elif young is records[0]:
                high, time = min(at, high), young.time
            else:
                return young.offset, young.time
            at = (low + high) // 2
        return low, time

    async def _nearest(self, topic: Topic, offset: int) -> int:
        """Return the nearest of Kafka's offsets that the topic has."""
        answer = await self._cluster.ask(
            topic.leader, "read", OffsetRequest(-1, _COMMITTED, [(topic.name, [(0, _EARLIEST)])])
        )
        ((_, ((_, code, _, start),)),) = answer.topics
        if code:
            raise UnavailableError(broker_errors.NOT_READY) from KafkaError(
                broker_errors.of_code(code, f"topic {topic.name}")
            )
        if offset <= start:
            return int(start)
        # It is past the end: a fetch from the beginning tells where that is.
        code, fetched = await self._part(topic, start, 1)
        return min(offset, fetched.head) if code == 0 else int(start)

    async def _part(self, topic: Topic, offset: int, most: int) -> Part:
        """Fetch of one topic, with others that wait; alone and with more patience where that did not bring it.

        A broker may have no time to find what there is, and need not send a batch that is larger than what is asked for
        unless it is the first.
        """
        part = await self._together(topic.leader, most).ask(_From(topic, offset))
        if part is not None and (part.code or part.fetched.begins(offset)):
            return part
        for number, wait in enumerate(_WAITS):
            await asyncio.sleep(_REST_SECONDS * number)
            found = await self.fetch(topic.leader, "read", [(topic, offset)], wait=wait, most=most)
            part = found.get(topic.name)
            if part is not None and (part.code or part.fetched.begins(offset)):
                return part
        if part is not None and part.fetched.blob:
            return part
        raise UnavailableError(broker_errors.NOT_READY) from KafkaError(f"a fetch of topic {topic.name} has no answer")

    def _together(self, leader: int, most: int) -> Together[_From, Part | None]:
        if (leader, most) not in self._waiting:

            async def fetch(asked: Sequence[_From]) -> list[Part | None]:
                first = {one.topic: one.offset for one in reversed(asked)}  # a request names a topic once
                wait = _WAITS[0] + _WAIT_PER_TOPIC * (len(first) - 1)
                found = await self.fetch(leader, "read", first.items(), wait=wait, most=most)
                return [found.get(one.topic.name) if first[one.topic] == one.offset else None for one in asked]

            at_once = min(_MOST_TOGETHER, MAX_BYTES // most)
            self._waiting[leader, most] = Together(fetch, at_once, broker_errors.NOT_READY)
        return self._waiting[leader, most]

"""How records get into topics: one batch for each topic, one request for each broker, and then an outcome for each.

Brokers answer when all replicas in sync have the batch (``acks=all``). Batches are numbered (an idempotent producer),
so one that is sent twice is stored once. Where a broker gives no numbers, as Tansu does, nothing depends on them: one
request is in flight at a time, and every batch has a name of its own.

A batch whose outcome is unknown is looked up in the log by its name before anything else. If it is not there, it is
sent again where the broker numbers batches. Elsewhere it may still be under way: records with a key are sent again,
because a key that appears in the log meanwhile is noticed, and the outcome of the others is unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial

import structlog
from aiokafka.errors import KafkaError
from aiokafka.protocol.produce import ProduceRequest

from app.bus.backend import PATIENCE_SECONDS
from app.bus.kafka import records
from app.bus.kafka.brokers import broker_errors
from app.bus.kafka.brokers.cluster import ANSWER_SECONDS, LOST, Cluster
from app.bus.kafka.brokers.wire import TopicsRequest
from app.bus.kafka.commit import Commit, TopicBatch
from app.bus.kafka.keys import Keys, search
from app.bus.kafka.log import Log
from app.bus.kafka.producer import Producer
from app.bus.kafka.topics import Topic, Topics
from app.bus.outcomes import Outcomes
from app.core.errors import AbideError, OutcomeUnknownError, OverloadedError, TooLargeError, UnavailableError, bare
from app.core.message import Record
from app.core.ports import Outcome

_RETRY_SECONDS = 0.1
_LOOK_AGAIN_SECONDS = 0.4
"""How long after a connection broke its last batch may still be stored, unless the broker is stuck."""
_TROUBLED_SECONDS = 2.0
"""For this long after trouble with a broker, another worker's batch may still arrive there."""
_PROBE_SECONDS = 3.0

_ALL = -1

_log = structlog.get_logger(__name__)


class Store:
    """Stores commits one at a time. ``clock`` gives seconds since 1970."""

    def __init__(  # noqa: PLR0913, PLR0917 — what it stores with
        self,
        place: str,
        cluster: Cluster,
        topics: Topics,
        log: Log,
        keys: Keys,
        outcomes: Outcomes,
        clock: Callable[[], float],
    ) -> None:
        self._place = place
        self._cluster = cluster
        self._topics = topics
        self._log = log
        self._keys = keys
        self._outcomes = outcomes
        self._clock = clock
        self._producer = Producer(cluster)
        self._doubted = False
        self._said = ""
        """Why the last commit was given up; empty since one worked."""

    async def store(self, given: Sequence[Record], deadline: float) -> list[Outcome]:
        """Store the records; return an outcome for each, at the deadline at the latest."""
        commit = Commit(given, deadline)
        try:
            with self._outcomes.under_way("commit"):
                async with asyncio.timeout(deadline - time.monotonic()):
                    while commit.open():
                        await self._attempt(commit)
        except TimeoutError as error:
            self._give_up(commit, commit.last or error)
        else:
            self._works()
        return commit.result()

    async def probe(self) -> None:
        """After a failure, see whether the broker answers again where commits go. Raises nothing."""
        if not self._doubted:
            return
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                await self._cluster.ask(await self._cluster.any_broker(), "commit", TopicsRequest([]))
        except (UnavailableError, *LOST) as error:
            self._outcomes.failed("commit", broker_errors.explain(error))
        else:
            self._works()

    async def _attempt(self, commit: Commit) -> None:
        """Store what is open, or a part of it; after a failure, wait a moment."""
        try:
            await self._clear_doubt(commit)
            topics = await self._find(commit)
            await self._producer.begin()
            await self._look_for_keys(commit, topics)
            await self._send(commit, self._cut(commit, topics))
            if commit.must_wait:
                await self._again(commit, commit.last or KafkaError(broker_errors.NOT_READY))
        except AbideError as error:
            if not isinstance(error, UnavailableError) or error.__cause__ is None:
                commit.refuse(commit.open(), error)
                return
            await self._again(commit, error)
        except LOST as error:
            await self._again(commit, error)

    async def _look_for_keys(self, commit: Commit, topics: dict[str, Topic]) -> None:
        """Learn the keys of the topics of keyed records; look twice where another worker's batch may be arriving."""
        keyed = [topic for channel, topic in topics.items() if commit.has_keys(channel)]
        for again in (False, True):
            for topic in keyed:
                await self._keys.catch_up(topic)
            if again or not keyed or time.monotonic() - self._cluster.troubled > _TROUBLED_SECONDS:
                return
            # Workers that have waited with the same key must not go on at the same moment.
            await asyncio.sleep(_LOOK_AGAIN_SECONDS * (0.5 + random.random()))  # noqa: S311 — spreads them

    async def _again(self, commit: Commit, error: BaseException) -> None:
        commit.last = error.__cause__ if isinstance(error, UnavailableError) and error.__cause__ else error
        commit.must_wait = False
        self._outcomes.hint("commit", broker_errors.explain(commit.last))
        await asyncio.sleep(_RETRY_SECONDS * (0.5 + random.random()))  # noqa: S311 — spreads attempts

    async def _find(self, commit: Commit) -> dict[str, Topic]:
        """Return the topics of open records; create those that are missing; refuse records of those of no use."""
        channels = commit.channels()
        found = await self._topics.find(channels)
        missing = [channel for channel in channels if found[channel] is None]
        if missing:
            await self._topics.make(missing)
            found |= await self._topics.find(missing)
        topics: dict[str, Topic] = {}
        for channel in channels:
            topic = found[channel]
            if isinstance(topic, Topic) and time.monotonic() - topic.leaderless < PATIENCE_SECONDS:
                topics[channel] = topic
                continue
            if isinstance(topic, Topic):  # a commit has waited for one, and each would hold up other channels
                commit.refuse(commit.of(channel), UnavailableError(broker_errors.NOT_READY))
                continue
            if topic is not None and topic.__cause__ is not None:
                raise topic
            problem = topic or self._topics.missing(channel)
            if problem is None:
                raise UnavailableError(broker_errors.NOT_READY) from KafkaError(
                    f"the topic of {channel} was not created"
                )
            commit.refuse(commit.of(channel), problem)
        return topics

    def _cut(self, commit: Commit, topics: dict[str, Topic]) -> list[TopicBatch]:
        """Settle records whose keys are known; make a batch for each topic of the others, as large as one may be."""
        batches = []
        for channel, topic in topics.items():
            if topic.name in commit.doubtful:
                continue
            indexes = commit.new(channel, partial(self._keys.find, topic), topic)
            if indexes:
                batches.append(self._batch(commit, channel, topic, indexes))
        return batches

    def _batch(self, commit: Commit, channel: str, topic: Topic, indexes: list[int]) -> TopicBatch:
        now = topic.time = max(int(self._clock() * 1000), topic.time)
        name, numbers = secrets.token_hex(8), self._producer.numbers(topic.name)
        begin = self._keys.position(topic) if commit.has_keys(channel) else topic.head
        data = records.build([commit.records[index] for index in indexes], now, name, begin, numbers)
        return TopicBatch(topic, indexes, name, begin, data, self._producer.id)

    async def _send(self, commit: Commit, batches: list[TopicBatch]) -> None:
        """Send batches to the leaders of their topics, and learn what became of each."""
        by_leader: dict[int, list[TopicBatch]] = {}
        for batch in batches:
            by_leader.setdefault(batch.topic.leader, []).append(batch)
        results = await asyncio.gather(
            *(self._send_to(commit, leader, some) for leader, some in by_leader.items()), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _send_to(self, commit: Commit, leader: int, batches: list[TopicBatch]) -> None:
        if leader < 0:
            raise UnavailableError(broker_errors.NOT_READY) from KafkaError(
                f"topic {batches[0].topic.name} has no leader"
            )
        connection = await self._cluster.connection(leader, "commit")
        if any(self._topics.is_stale(batch.topic) for batch in batches):
            return  # the connection is new: its broker may have other topics
        seconds = min(ANSWER_SECONDS, max(0.1, commit.deadline - time.monotonic()))
        parts = [(batch.topic.name, [(0, batch.data)]) for batch in batches]
        for batch in batches:
            commit.doubtful[batch.topic.name] = batch
        answer = await self._cluster.send(connection, ProduceRequest(None, _ALL, int(seconds * 1000), parts), seconds)
        codes = {name: (code, offset) for name, ((_, code, offset, *_),) in answer.topics}
        for batch in batches:
            await self._learn(commit, batch, *codes[batch.topic.name])

    async def _learn(self, commit: Commit, batch: TopicBatch, code: int, offset: int) -> None:
        """React to the broker's answer to a batch."""
        topic, is_over = batch.topic, True
        if code == 0:
            await self._stored(commit, batch, offset)
        elif code in broker_errors.MOVED:
            self._topics.forget(topic)
            commit.last = KafkaError(broker_errors.of_code(code, f"topic {topic.name}"))
        elif code in broker_errors.SEQUENCE_LOST:
            self._producer.forget()
        elif code in broker_errors.TOO_LARGE:
            self._too_large(commit, batch)
        elif code in broker_errors.NOT_STORED:
            self._refused(commit, batch, code)
        else:  # a part of the replicas may have it
            self._topics.forget(topic)
            commit.last, is_over = KafkaError(broker_errors.of_code(code, f"topic {topic.name}")), False
        if is_over:
            commit.doubtful.pop(topic.name, None)
        commit.must_wait = commit.must_wait or code in broker_errors.MOVED or not is_over

    async def _stored(self, commit: Commit, batch: TopicBatch, offset: int) -> None:
        """Settle the records of a batch that is in the log at Kafka's ``offset``.

        Where others have appended since keys were looked for, one of them may have been first.
        """
        topic, count = batch.topic, len(batch.indexes)
        channel = commit.records[batch.indexes[0]].channel
        if offset > batch.begin and commit.has_keys(channel):
            with contextlib.suppress(OverloadedError):
                await self._keys.catch_up(topic)
                if self._keys.position(topic) < offset:  # Tansu may show a later batch first
                    raise UnavailableError(broker_errors.NOT_READY) from KafkaError(f"topic {topic.name} has a hole")
        if batch.producer is not None and batch.producer == self._producer.id:
            self._producer.stored(topic.name, count)
        commit.doubtful.pop(topic.name, None)
        commit.limit.pop(topic.name, None)
        if offset < batch.begin:  # it was made anew
            self._topics.forget(topic)
            (found,) = (await self._topics.find([channel])).values()
            topic = found if isinstance(found, Topic) else topic
        topic.head = max(topic.head, offset + count)
        for number, index in enumerate(batch.indexes):
            record, mine = commit.records[index], offset + number + 1
            first = self._keys.find(topic, record) if record.key is not None and offset > batch.begin else None
            commit.settle_stored(index, topic, mine, first)

    async def _clear_doubt(self, commit: Commit) -> None:
        """Look up batches whose outcome is unknown; send them again or give up on them if they are not in the log."""
        for name, batch in list(commit.doubtful.items()):
            found = await self._topics.find([commit.records[batch.indexes[0]].channel])
            (topic,) = found.values()
            if isinstance(topic, Topic) and topic.id == batch.topic.id:
                offset = await search(self._log, topic, batch.begin, batch.name, commit.deadline)
                if offset is None and batch.producer is None:
                    await asyncio.sleep(_LOOK_AGAIN_SECONDS)
                    offset = await search(self._log, topic, batch.begin, batch.name, commit.deadline)
                batch.topic = topic
                if offset is not None:
                    await self._stored(commit, batch, offset)
                    continue
                if batch.producer is not None and batch.producer == self._producer.id:
                    await self._send_to(commit, topic.leader, [batch])
                    continue
            del commit.doubtful[name]
            self._producer.forget()
            commit.uncertain.update(batch.indexes)
            for index in batch.indexes:
                if commit.records[index].key is None:
                    commit.settle(index, _unknown())

    def _too_large(self, commit: Commit, batch: TopicBatch) -> None:
        """Send fewer records at once; refuse one that is too large alone."""
        if len(batch.indexes) > 1:
            commit.limit[batch.topic.name] = len(batch.indexes) // 2
            return
        (index,) = batch.indexes
        size = len(commit.records[index].data)
        _log.warning("message_refused", channel=commit.records[index].channel, reason=f"{size} bytes are too large")
        msg = f"the message has {size} bytes, and its topic in Kafka takes no such batch (max.message.bytes)"
        commit.refuse([index], TooLargeError(msg))

    def _refused(self, commit: Commit, batch: TopicBatch, code: int) -> None:
        reason = broker_errors.of_code(code, f"topic {batch.topic.name}")
        self._say(reason, len(batch.indexes))
        refusal = UnavailableError(broker_errors.REFUSED)
        refusal.__cause__ = KafkaError(reason)
        commit.refuse(batch.indexes, refusal)

    def _give_up(self, commit: Commit, error: BaseException) -> None:
        """Refuse the open records at the deadline."""
        reason = broker_errors.explain(error)
        if isinstance(error, TimeoutError):
            reason = self._outcomes.hinted("commit") or f"{self._place}: {reason}"
        indexes = commit.open()
        self._say(reason, len(indexes))
        doubtful = {index for batch in commit.doubtful.values() for index in batch.indexes} | commit.uncertain
        if commit.doubtful:
            self._producer.forget()
        for index in indexes:
            if index in doubtful:
                commit.settle(index, _unknown())
            else:
                refusal = UnavailableError(broker_errors.NOT_READY)
                refusal.__cause__ = error
                commit.settle(index, bare(refusal))
        self._doubted = True
        self._outcomes.failed("commit", reason)

    def _say(self, reason: str, count: int) -> None:
        if reason != self._said:
            _log.error("commit_given_up", reason=reason, messages=count)
        self._said = reason

    def _works(self) -> None:
        self._doubted, self._said = False, ""
        self._outcomes.worked("commit")


def _unknown() -> OutcomeUnknownError:
    return OutcomeUnknownError(
        "the connection to the broker broke during the commit: the message may be stored or not; "
        "with an idempotency key it is safe to send it again"
    )

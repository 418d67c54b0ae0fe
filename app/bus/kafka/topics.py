"""What is known of topics: which one a channel is, its id, its leader, and its lineage.

A topic is looked up when it is used first, and again when a connection was made, when a broker says that it has moved,
and every few seconds while it is followed. What keeps a position from meaning another message is its lineage:

* The oldest epoch is that of the topic itself, by its id. A topic that was deleted and made anew has another one.
* Kafka counts the leaders of a topic, and a leader appends each offset once. So each of the later leaders that appended
  something is an epoch, which began where the one before it ended, by what the brokers say (OffsetForLeaderEpoch).
* A channel without a topic is in the epoch :data:`NOWHERE`. It is older than all others, and has no messages.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import structlog
from aiokafka.protocol.admin import CreateTopicsRequest

from app.bus.backend import KEY_LIFETIME, Retention
from app.bus.kafka.brokers import broker_errors
from app.bus.kafka.brokers.cluster import Cluster
from app.bus.kafka.brokers.wire import NO_ID, LeadersRequest
from app.bus.kafka.names import topic_of
from app.bus.kafka.records import Part
from app.bus.reads.together import Together
from app.core.channel import MAX_MESSAGE_SIZE
from app.core.epochs import NAME, label
from app.core.errors import UnavailableError
from app.core.message import Position

NOWHERE = "0" * NAME
"""The epoch of a channel whose topic does not exist."""

MAX_BATCH_BYTES = 2 * MAX_MESSAGE_SIZE
"""The largest batch of a topic that we create: one message with its headers, after a batch that was almost full."""

KEPT_SECONDS = 60
"""For how much longer than its keys a topic that we create keeps its messages, at least."""

_LEADERS = 6
"""How many earlier leaders a lineage goes back, at most."""

_LOOKED_AT_ONCE = 1000
"""How many topics that are asked for one by one are looked up with one request."""

_KNOWN = 20_000
"""The most topics that are remembered."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Declared:
    """What the configuration says of a channel."""

    topic: str | None = None
    """The topic that others made; None for one of ours."""
    is_family: bool = False
    """Whether it is one of a family: its topic is created by its first message only."""


Declarations = Callable[[str], Declared]
"""Returns what the configuration says of a channel. Call it each time, because a reload changes the answer."""


class Oldest(NamedTuple):
    """The first record from ``begin`` on that was not older than ``since``, by Kafka's offset, and its time."""

    offset: int
    time: int
    begin: int
    since: int

    def first(self, begin: int, since: int) -> int | None:
        """Return the first record of another window; None if it has to be searched for."""
        if since > self.time:
            return None
        if begin >= self.offset:
            return begin
        return self.offset if self.after(begin, since) == self.offset else None

    def after(self, begin: int, since: int) -> int:
        """Return an offset of another window before which all records are too old."""
        return max(begin, self.offset) if self.begin <= begin and self.since <= since else begin


@dataclass(slots=True, eq=False)
class Topic:
    """A topic that exists. It is another object after a change of its id or its leader."""

    name: str
    id: str
    leader: int
    """The broker; -1 while there is none."""
    leader_epoch: int
    lineage: str = ""
    """As in :mod:`app.core.epochs`; empty until it was asked for."""
    start: int = 0
    """Kafka's offset of the oldest record, when it was last read."""
    head: int = 0
    """Kafka's offset of the next record, when it was last read."""
    time: int = 0
    """The time of the newest message that was appended from here."""
    idle: Part | None = field(default=None, repr=False)
    """What a fetch from there on has, which is nothing, when it was last read."""
    oldest: Oldest | None = None
    """The oldest record that a history showed, when it was last searched for."""
    opened: int = field(default=0, repr=False)
    """How many connections there had been when it was looked up."""
    leaderless: float = field(default=float("inf"), repr=False)
    """Since when it has had no leader, as far as this process has seen (:func:`time.monotonic`)."""

    def lead(self, leader: int, since: float) -> None:
        """Learn who leads it. Without a leader it has been ``since`` then, or longer."""
        self.leader, self.leaderless = leader, min(self.leaderless, since) if leader < 0 else float("inf")


class Topics:
    """The topics of channels, which are looked up in ``cluster``. Methods raise what the cluster's do."""

    def __init__(self, cluster: Cluster, prefix: str, declared: Declarations, retention: Retention) -> None:
        self._cluster = cluster
        self._prefix = prefix
        self._declared = declared
        self._retention = retention
        self._known: dict[str, Topic] = {}
        self._creating = asyncio.Lock()
        self._told: set[str] = set()
        self._looks = Together(self._look_at_each, _LOOKED_AT_ONCE, broker_errors.NOT_READY)

    def name(self, channel: str) -> str:
        """Return the name of the channel's topic."""
        return self._declared(channel).topic or topic_of(self._prefix, channel)

    def known(self, channel: str) -> Topic | None:
        """Return the channel's topic if it was found before."""
        return self._known.get(self.name(channel))

    def has(self, topic: Topic) -> bool:
        """Whether the topic is still what its name stands for."""
        return self._known.get(topic.name) is topic

    def is_stale(self, topic: Topic) -> bool:
        """Whether connections were made since the topic was looked up, so that it may be another one."""
        return topic.opened != self._cluster.opened or not self.has(topic)

    def forget(self, topic: Topic) -> None:
        """Look the topic up before it is used again."""
        self._known.pop(topic.name, None)

    async def find(self, channels: Collection[str]) -> dict[str, Topic | UnavailableError | None]:
        """Return the topics of channels, from memory where that is fresh; None for those that do not exist.

        An error says why a topic cannot be a channel.
        """
        names = {channel: self.name(channel) for channel in channels}
        asked = {name for name in names.values() if not self._is_fresh(name)}
        problems: dict[str, UnavailableError] | dict[str, UnavailableError | None] = {}
        if len(asked) == 1:
            problems = {name: await self._looks.ask(name) for name in asked}
        elif asked:
            problems = await self.look(asked)
        return {channel: problems.get(name) or self._known.get(name) for channel, name in names.items()}

    def _is_fresh(self, name: str) -> bool:
        known = self._known.get(name)
        return known is not None and known.leader >= 0 and not self.is_stale(known)

    async def look(self, names: Collection[str]) -> dict[str, UnavailableError]:
        """Ask the brokers for topics; return why those that cannot be channels cannot. A reason with a cause passes.

        Some brokers answer with all topics when they are asked for none.
        """
        answer = await self._cluster.topics(sorted(names))
        opened = self._cluster.opened
        problems: dict[str, UnavailableError] = {}
        for code, name, identity, _, partitions, *_ in answer.topics if names else ():
            problem = _problem(code, name, identity, partitions)
            if problem is not None:
                problems[name] = problem
                if problem.__cause__ is None:
                    self.tell(name, problem)
            if problem is not None or code:
                self._known.pop(name, None)
            else:
                self._learn(name, identity, partitions[0], opened)
        known = [topic for name in names if (topic := self._known.get(name))]
        return problems | await self._complete([topic for topic in known if not topic.lineage])

    async def _look_at_each(self, names: Sequence[str]) -> list[UnavailableError | None]:
        problems = await self.look(names)
        return [problems.get(name) for name in names]

    def close(self) -> None:
        """Refuse what waits."""
        self._looks.close()

    async def make(self, channels: Iterable[str]) -> None:
        """Create the topics of channels that are ours and have none."""
        async with self._creating:
            new: list[Any] = [
                (name, 1, -1, [], self._settings(channel))
                for channel in channels
                if (name := self.name(channel)) not in self._known and self._declared(channel).topic is None
            ]
            if not new:
                return
            request = CreateTopicsRequest(new, 5000, False)  # noqa: FBT003 — by position
            answer = await self._cluster.ask(await self._cluster.controller(), "read", request)
            for name, code, words in answer.topic_errors:
                if code not in (0, broker_errors.EXISTS):
                    reason = broker_errors.of_code(code, f"topic {name} cannot be created") + (
                        f": {words}" if words else ""
                    )
                    raise UnavailableError(reason)
            names = [name for name, *_ in new]
            await self.look(names)
            for _ in range(20):  # a new topic has its leader after a moment
                missing = [name for name in names if (topic := self._known.get(name)) is None or topic.leader < 0]
                if not missing:
                    break
                await asyncio.sleep(0.05)
                await self.look(missing)

    def is_family(self, channel: str) -> bool:
        """Whether the channel's topic is created by its first message only, and not by a subscriber."""
        return self._declared(channel).is_family

    def missing(self, channel: str) -> UnavailableError | None:
        """Return why a channel without a topic cannot be used; None where the topic is ours to create."""
        topic = self._declared(channel).topic
        if topic is None:
            return None
        problem = UnavailableError(f"channel {channel!r} is the topic {topic!r}, which does not exist: create it")
        self.tell(topic, problem)
        return problem

    def _settings(self, channel: str) -> list[tuple[str, str]]:
        seconds = max(self._retention(channel).ttl, KEY_LIFETIME + KEPT_SECONDS)
        return [
            ("cleanup.policy", "delete"),
            ("retention.ms", str(seconds * 1000)),
            ("max.message.bytes", str(MAX_BATCH_BYTES)),
            ("message.timestamp.type", "CreateTime"),
            ("unclean.leader.election.enable", "false"),
        ]

    def tell(self, name: str, problem: BaseException) -> None:
        """Log once why a topic cannot be used."""
        if name not in self._told and len(self._told) < _KNOWN:
            self._told.add(name)
            _log.error("topic_refused", topic=name, reason=str(problem))

    def _learn(self, name: str, identity: str, partition: tuple[Any, ...], opened: int) -> None:
        _, _, leader, leader_epoch, *_ = partition
        known, epoch = self._known.pop(name, None), max(leader_epoch, 0)
        if known is not None and (known.id, known.leader_epoch) == (identity, epoch):
            known.lead(leader, time.monotonic())
            known.opened = opened
            self._known[name] = known
            return
        while len(self._known) >= _KNOWN:
            self._known.pop(next(iter(self._known)))
        topic = self._known[name] = Topic(name, identity, leader, epoch, opened=opened)
        topic.lead(leader, min(time.monotonic(), known.leaderless if known is not None else float("inf")))
        if epoch == 0:
            topic.lineage = lineage(identity, [])

    async def _complete(self, topics: Iterable[Topic]) -> dict[str, UnavailableError]:
        """Ask where the leaders of topics began, for their lineages; forget topics of which brokers do not say.

        A lineage has each leader that appended something, the newest first.
        """
        problems: dict[str, UnavailableError] = {}
        open_ = {topic.name: _Leaders(topic, topic.leader_epoch) for topic in topics if topic.leader >= 0}
        while asked := [one for one in open_.values() if one.epoch > 0 and len(one.began) < _LEADERS]:
            by_broker: dict[int, list[_Leaders]] = {}
            for one in asked:
                by_broker.setdefault(one.topic.leader, []).append(one)
            for broker, some in by_broker.items():
                request = LeadersRequest([(one.topic.name, one.epoch - 1) for one in some])
                for name, ((code, _, earlier, end),) in (await self._cluster.ask(broker, "read", request)).topics:
                    if code:
                        self.forget(open_.pop(name).topic)
                        problems[name] = _passing(code, name)
                    else:
                        open_[name].learn(earlier, end)
        for one in open_.values():
            one.topic.lineage = lineage(one.topic.id, one.began, whole=one.epoch <= 0)
        return problems


@dataclass(slots=True)
class _Leaders:
    """What is known of a topic's leaders, from the newest back to the one that is counted ``epoch``."""

    topic: Topic
    epoch: int
    began: list[tuple[int, int]] = field(default_factory=list)

    def learn(self, earlier: int, end: int) -> None:
        """Learn the count of the leader before, and where its log ended."""
        if not self.began or end + 1 < self.began[-1][1]:
            self.began.append((self.epoch, max(end, 0) + 1))
        self.epoch = min(earlier, self.epoch - 1) if end > 0 else 0


def position(topic: Topic | None, offset: int) -> Position:
    """Return a position in a channel by our offset."""
    return Position(label(topic.lineage if topic else NOWHERE), offset)


def _problem(code: int, name: str, identity: str, partitions: list[Any]) -> UnavailableError | None:
    """Return why a topic cannot be a channel; None if it can, or does not exist."""
    if code and code not in broker_errors.MOVED:
        return UnavailableError(broker_errors.of_code(code, f"topic {name}"))
    if code:
        return None if code in broker_errors.MISSING else _passing(code, name)
    if len(partitions) != 1:
        return UnavailableError(
            f"topic {name} has {len(partitions)} partitions, and a channel is a topic of one: its offsets are the order"
        )
    if identity == NO_ID:
        return UnavailableError(f"topic {name} has no id: use Apache Kafka 2.8 or newer, and create the topic again")
    return None


def _passing(code: int, name: str) -> UnavailableError:
    problem = UnavailableError(broker_errors.NOT_READY)
    problem.__cause__ = broker_errors.TopicError(broker_errors.of_code(code, f"topic {name}"))
    return problem


def lineage(identity: str, began: list[tuple[int, int]], *, whole: bool = True) -> str:
    """Return the lineage of a topic whose later leaders ``began`` there; ``whole`` if there were no others."""
    later = [f"{_epoch(identity, epoch)}F{offset}" for epoch, offset in began]
    if whole:
        return "P".join([*later, f"{_epoch(identity, 0)}F1", NOWHERE])
    return "P".join([*later[:-1], _epoch(identity, began[-1][0])])


def _epoch(identity: str, leader_epoch: int) -> str:
    """Return the name of an epoch: 8 digits of a hash, so that leaders of other topics have others."""
    return hashlib.sha256(f"{identity} {leader_epoch}".encode()).hexdigest()[:NAME]

"""The consumer: fetches what is appended to the topics that are followed, and notices what became of them.

One request at a time waits at each broker for news of all its topics that are followed. It asks from where the follower
is, so what comes is next in order, and every answer has the heads too. A session begins by comparing the heads, before
anything is handed out; an error ends it, and another one begins after a moment. Meanwhile topics are looked up again
every few seconds, and those that do not exist yet more often.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import structlog
from aiokafka.errors import KafkaError, UnsupportedCodecError

from app.bus import heads
from app.bus.ending import is_ending
from app.bus.follower import MAX_READY_BYTES, Follower
from app.bus.kafka.brokers import broker_errors
from app.bus.kafka.brokers.cluster import LOST, Cluster
from app.bus.kafka.log import Log
from app.bus.kafka.records import Part
from app.bus.kafka.topics import NOWHERE, Topic, Topics
from app.bus.outcomes import Outcomes
from app.bus.place import Place
from app.core.channel import ACCESS
from app.core.epochs import name
from app.core.errors import UnavailableError

_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 0.5
_WAIT_PER_TOPIC = 0.0002
"""How long a fetch waits. A topic that is followed meanwhile is in the next one, so it is short, but not for many."""

_REST_PER_TOPIC, _LEAST_REST_SECONDS = 0.000_004, 0.001
"""The pause after a fetch: about as long as a request that names so many topics takes the worker; none for few."""

_STARVED_WAIT_SECONDS = 1.0
"""How long a fetch waits if the one before found nothing of what there is: Tansu stops at the end of the wait."""

_HEARTBEAT_SECONDS = 3.0
_LOOKED_AT_ONCE = 1000
"""Between two looks at topics that are followed; the most in one look. Where there are more, each has its turn."""

_DISCOVER_SECONDS = 0.25
_MOST_MISSING = 500
"""Between two looks for topics that do not exist yet; the most in one look."""

_LOOK_SECONDS = 1.0
"""Between two looks at what is followed while nothing is fetched."""

_LOW_SECONDS = 2.0
"""A head below what was handed out counts after this time: a new leader may need a moment to know the head."""

_REFUSED_SECONDS = 1.0
"""How long nothing is fetched of a topic that a broker has refused."""

_MOST_LEFT_OUT = 50
"""How many fetches may leave out the next record before it counts as lost."""

_SHORTEST_BACKOFF, _LONGEST_BACKOFF = 0.05, 1.0
_FULL_SECONDS = 0.02
_AT_ONCE = 500

_log = structlog.get_logger(__name__)


class Consumer:
    """Keeps a session alive for ``follower``. ``probe`` sees whether commits work again, at each heartbeat."""

    def __init__(  # noqa: PLR0913, PLR0917 — what it reads with, and whom it tells
        self,
        place: str,
        cluster: Cluster,
        topics: Topics,
        log: Log,
        follower: Follower,
        probe: Callable[[], Awaitable[None]],
        outcomes: Outcomes,
    ) -> None:
        self._place = place
        self._cluster = cluster
        self._topics = topics
        self._logs = log
        self._follower = follower
        self._probe = probe
        self._outcomes = outcomes
        self.ready = asyncio.Event()
        """Set once a session has begun."""
        self._changed, self._news = asyncio.Event(), asyncio.Event()
        self._listening: dict[int, asyncio.Task[None]] = {}
        """What fetches, by the broker."""
        self._due: set[str] = set()
        """Names of topics that are to be looked up now."""
        self._unsettled: set[str] = set()
        """Channels whose place is to be read."""
        self._low: dict[str, float] = {}
        """Channels whose head is below what was handed out, and since when."""
        self._aside: dict[str, float] = {}
        """Channels that nothing is fetched of, and until when (:func:`time.monotonic`)."""
        self._left_out: Counter[str] = Counter()
        """How often the next record of a channel was not in a fetch that had later ones."""
        self._found: dict[str, Topic] = {}
        """The topics of channels that are followed, until the next heartbeat."""
        self._missing: list[str] = []
        """Channels whose topic did not exist when it was last looked at."""
        self._looked_at = float("-inf")
        """When :meth:`_wanted` last went through all channels."""
        self._turns, self._turns_of_missing = heads.Turns(), heads.Turns()
        self._said = ""

    async def run(self) -> None:
        """Serve sessions until cancelled."""
        backoff = _SHORTEST_BACKOFF
        while not is_ending():
            began = time.monotonic()
            try:
                await self._session()
            except* (UnavailableError, *LOST) as group:
                self._lost(group)
            except* Exception:  # noqa: BLE001 — a bug ends one session, and is logged each time
                _log.exception("listener_failed")
            if time.monotonic() - began > _LONGEST_BACKOFF:
                backoff = _SHORTEST_BACKOFF
            await asyncio.sleep(backoff * (0.5 + random.random()))  # noqa: S311 — spreads reconnections
            backoff = min(backoff * 2, _LONGEST_BACKOFF)

    def wake(self, channel: str) -> None:
        """Learn that another channel is followed. Whoever fetches from its broker takes it up by the next fetch."""
        topic = self._topics.known(channel)
        if topic is None:
            self._missing.append(channel)
        elif topic.leader not in self._listening:
            self._changed.set()

    async def places(self, channels: Sequence[str]) -> Mapping[str, Place]:
        """Read where channels are. One whose topic is of no use is nowhere.

        Leaves out those of which no broker says so now: they hold up no other, but for ``$access``, which holds up all.
        Makes a topic that is gone, so that subscribers are told of the loss with positions of its next messages.
        """
        found = await self._topics.find(channels)
        had = self._follower.places([channel for channel, topic in found.items() if topic is None])
        if gone := [channel for channel, place in had.items() if place.lineage != NOWHERE]:
            with contextlib.suppress(UnavailableError):  # where we may create none, its publisher does
                for begin in range(0, len(gone), _AT_ONCE):
                    await self._topics.make(gone[begin : begin + _AT_ONCE])
            found |= await self._topics.find(gone)
        topics = {
            channel: topic if isinstance(topic, Topic) else None
            for channel, topic in found.items()
            if not isinstance(topic, UnavailableError) or topic.__cause__ is None
        }
        names, places = list(topics), dict[str, Place]()
        for begin in range(0, len(names), _AT_ONCE):
            places |= await self._logs.places({channel: topics[channel] for channel in names[begin : begin + _AT_ONCE]})
        if ACCESS in found and ACCESS not in places:
            reason = "the topic of $access cannot be read: nothing is delivered before what was taken back is known"
            raise UnavailableError(reason)
        return places

    async def _session(self) -> None:
        self._follower.hold()
        self._low.clear()
        with self._outcomes.under_way("listen"):
            await self._topics.look([self._topics.name(channel) for channel in self._follower.places()])
            await heads.compare(self._follower, self.places)
        self._outcomes.worked("listen")
        if self._said or not self.ready.is_set():
            _log.info("listening", brokers=self._place)
        self._said = ""
        self.ready.set()
        await self._serve()

    async def _serve(self) -> None:
        self._listening.clear()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_up())
            while True:
                self._changed.clear()
                for leader in {topic.leader for _, topic, _ in self._wanted()} - {-1}:
                    if leader not in self._listening:
                        self._listening[leader] = tasks.create_task(self._listen(leader))
                await self._changed.wait()

    async def _listen(self, leader: int) -> None:
        """Fetch from one broker, again and again."""
        is_starved = False
        while True:
            wanted = [entry for entry in self._wanted() if entry[1].leader == leader]
            if not wanted or self._follower.held >= MAX_READY_BYTES:
                await asyncio.sleep(_FULL_SECONDS)
                continue
            wait = min(_WAIT_SECONDS + _WAIT_PER_TOPIC * len(wanted), _LONGEST_WAIT_SECONDS)
            if is_starved:
                wait = _STARVED_WAIT_SECONDS
            with self._outcomes.under_way("listen"):
                parts = await self._logs.fetch(leader, "listen", [(topic, end) for _, topic, end in wanted], wait=wait)
            self._outcomes.worked("listen")
            self._follower.seen = time.monotonic()
            is_starved = False
            for channel, topic, end in wanted:
                part = parts.get(topic.name)
                if self._topics.is_stale(topic):
                    self._look(topic)
                elif part is not None and part.is_quiet(end):
                    self._settled(channel)
                elif part is not None and channel in self._follower:
                    is_starved = is_starved or (part.fetched.head > end and not part.fetched.blob)
                    await self._take(channel, topic, end, part)
            if (rest := _REST_PER_TOPIC * len(wanted)) > _LEAST_REST_SECONDS:
                await asyncio.sleep(rest)

    def _wanted(self) -> list[tuple[str, Topic, int]]:
        """Return the channels that are followed, with their topics and the offsets up to which their messages are here.

        Leaves out those without a topic, and those whose place has to be read first. ``$access`` comes first.
        """
        found, missing, now = [], [], time.monotonic()
        for channel, (lineage, end) in self._follower.places().items():
            topic = self._found.get(channel)
            if topic is None or not self._topics.has(topic):
                topic = self._topics.known(channel)
                if topic is not None:
                    self._found[channel] = topic
            if lineage == NOWHERE:
                missing.append(channel)
            if (topic.lineage if topic else NOWHERE) != lineage or channel in self._unsettled:
                self._unsettled.add(channel)
            elif topic is not None and self._aside.get(channel, now) <= now:
                found.append((channel, topic, end))
        if self._left_out:  # a broker sends a batch that is larger than what is asked of a topic where nothing precedes
            found.sort(key=lambda entry: entry[0] not in self._left_out)
        if found and ACCESS in self._follower:
            found.sort(key=lambda entry: entry[0] != ACCESS)
        self._missing, self._looked_at = missing, now
        return found

    async def _take(self, channel: str, topic: Topic, end: int, part: Part) -> None:
        """Hand the follower what was fetched of one topic."""
        code, fetched = part
        if code:
            self._take_code(channel, topic, code)
        elif fetched.head < end:
            self._look(topic)
            if time.monotonic() - self._low.setdefault(channel, time.monotonic()) > _LOW_SECONDS:
                self._unsettled.add(channel)
        elif fetched.leader_epoch() > topic.leader_epoch:
            self._look(topic)
        elif not fetched.begins(end) and self._left_out[channel] < _MOST_LEFT_OUT:  # Tansu may have it in a moment
            self._left_out[channel] += 1
            await asyncio.sleep(_FULL_SECONDS)
        else:
            self._settled(channel)
            try:
                messages = await self._logs.messages(topic, fetched, end)
            except UnsupportedCodecError as error:
                self._refuse(channel, topic, error)
            else:
                if messages and channel in self._follower:
                    self._follower.hear(channel, name(topic.lineage), messages)

    def _take_code(self, channel: str, topic: Topic, code: int) -> None:
        if code in broker_errors.MOVED:
            self._look(topic)
            self._aside[channel] = time.monotonic() + _FULL_SECONDS  # brokers learn of a new leader one by one
        elif code == broker_errors.OUT_OF_RANGE:
            self._unsettled.add(channel)
        else:
            self._refuse(channel, topic, broker_errors.TopicError(broker_errors.of_code(code, f"topic {topic.name}")))

    def _refuse(self, channel: str, topic: Topic, error: KafkaError) -> None:
        """Fetch nothing of a topic for a while; raise the error where no other channel can go on without it."""
        if channel == ACCESS:
            raise error
        self._topics.tell(topic.name, error)
        self._aside[channel] = time.monotonic() + _REFUSED_SECONDS

    def _settled(self, channel: str) -> None:
        """Learn that a channel is where it should be."""
        self._low.pop(channel, None)
        self._left_out.pop(channel, None)
        self._aside.pop(channel, None)

    def _look(self, topic: Topic) -> None:
        """Look a topic up now."""
        self._due.add(topic.name)
        self._news.set()

    async def _keep_up(self) -> None:
        """Look topics up again: those that are due, those that are missing, and from time to time the others."""
        beat = time.monotonic() + _HEARTBEAT_SECONDS
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DISCOVER_SECONDS):
                    await self._news.wait()
            self._news.clear()
            due, self._due = self._due, set()
            if time.monotonic() > beat:
                beat = time.monotonic() + _HEARTBEAT_SECONDS
                due |= self._names(self._turns.take(list(self._follower.places()), _LOOKED_AT_ONCE))
                self._found.clear()
                await self._probe()
                if not due:
                    with self._outcomes.under_way("listen"):
                        await self._topics.look([])
                    self._outcomes.worked("listen")
            due |= self._names(self._turns_of_missing.take(self._missing, _MOST_MISSING))
            if due:
                await self._topics.look(due)
            if due or self._unsettled or time.monotonic() - self._looked_at > _LOOK_SECONDS:
                self._wanted()
                await self._settle()
                self._changed.set()

    def _names(self, channels: Iterable[str]) -> set[str]:
        return {self._topics.name(channel) for channel in channels}

    async def _settle(self) -> None:
        """Judge the channels whose topic has changed, or whose messages are not where they were."""
        unsettled = [channel for channel in self._unsettled if channel in self._follower]
        if unsettled:
            before = self._follower.places()
            for channel, place in (await self.places(unsettled)).items():
                if channel in before and self._follower.judge(channel, before[channel].head, place):
                    self._follower.look(channel, place.head)
                self._low.pop(channel, None)
        self._unsettled.clear()

    def _lost(self, error: BaseException) -> None:
        while isinstance(error, BaseExceptionGroup):  # the first of the tasks that failed
            error = error.exceptions[0]
        reason = broker_errors.explain(error)
        self._outcomes.failed("listen", reason, certain=not self.ready.is_set())
        if reason != self._said:
            _log.warning("listener_lost" if self.ready.is_set() else "not_listening", reason=reason)
        self._said = reason

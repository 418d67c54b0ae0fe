"""Hears topics over one connection to each primary, watches them, and makes others when one is lost or deaf.

A server closes the connection of a subscriber that reads too slowly, and a network may lose it without a word. So the
subscriber sends itself beats by other connections. One that is not heard shows a connection that hears nothing, or that
leads to another server than commits do.

Redis keeps nothing of what is published while nobody hears it. So :meth:`Listening.began` has to find out what was
missed; it runs after all topics are subscribed again. In a cluster all connections are made again when one is lost, as
the topics may be elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

import structlog
from redis.exceptions import RedisError

from app.bus.backend import PATIENCE_SECONDS
from app.bus.ending import is_ending
from app.bus.log_backend import in_time
from app.bus.outcomes import Outcomes
from app.bus.reads.together import Together
from app.bus.redis.sessions.address import Address, Server
from app.bus.redis.sessions.beats import BEAT_SECONDS, DEAF_SECONDS, Beats
from app.bus.redis.sessions.faults import LOST, NOT_READY, explain
from app.bus.redis.sessions.link import Link
from app.bus.redis.sessions.primaries import Primaries
from app.bus.redis.sessions.session import RETRY_SECONDS, connect
from app.core.errors import UnavailableError

_SHORTEST_BACKOFF, _LONGEST_BACKOFF = 0.02, 1.0

_TOPICS_AT_ONCE = 1000
"""The most topics that are asked for before there is an answer."""

_TAGS = 100_000
"""How many names are tried to find one whose slot a server has: enough for one that has a single slot."""

_DEAF = "a subscription hears nothing any more, or leads to another server than commits do"

_log = structlog.get_logger(__name__)

Publish = Callable[[str, str], Awaitable[None]]
"""Publishes a text to a topic by a connection of commits. Raises :class:`UnavailableError` or what redis-py raises."""


class Listening(Protocol):
    """What is told of everything that is heard."""

    def heard(self, topic: str, payload: bytes) -> None:
        """Take what was published to a topic. Never raises."""

    async def began(self) -> None:
        """Find out what was missed: all topics are subscribed since a moment. May raise; then it is done again."""

    async def look(self) -> None:
        """Look whether something was missed nevertheless; called with each beat. May raise, as above."""

    def lost(self) -> None:
        """Learn that nothing is heard until :meth:`began`."""

    def alive(self, seconds: float) -> None:
        """Learn for how long a beat was on its way."""


class Subscriber:
    """Keeps topics subscribed. ``outcomes`` has the way "listen"; ``logs`` is whether the log is told what happens."""

    def __init__(  # noqa: PLR0913 — whom it hears for, and whom it tells
        self,
        address: Address,
        primaries: Primaries,
        publish: Publish,
        listening: Listening,
        outcomes: Outcomes,
        *,
        logs: bool = True,
    ) -> None:
        self._address = address
        self._primaries = primaries
        self._publish = publish
        self._listening = listening
        self._outcomes = outcomes
        self._logs = logs
        self._topics: dict[str, None] = {}
        self._links: dict[Server, Link] = {}
        self._up = asyncio.Event()
        """Set while all topics are subscribed."""
        self._backoff = _SHORTEST_BACKOFF
        self._said = ""
        """Why the last connections were lost, since there were some that heard."""
        self._adding = Together(self._add_together, _TOPICS_AT_ONCE, NOT_READY)
        self.ready = asyncio.Event()
        """Set from the first time on that everything was heard."""

    def want(self, topic: str) -> None:
        """Subscribe to a topic as soon as there is a connection."""
        self._topics[topic] = None

    async def add(self, topic: str) -> None:
        """Subscribe to a topic; return when what is published from now on is heard. Raises :class:`UnavailableError`.

        Topics that are asked for meanwhile are subscribed together. So no time that a log has to come back is spent by
        waiting for the answers to thousands of others.
        """
        self.want(topic)
        await self._adding.ask(topic)

    def remove(self, topic: str) -> None:
        """Hear no more of a topic."""
        self._topics.pop(topic, None)
        for link in self._links.values():
            link.remove(topic)

    def close(self) -> None:
        """Refuse what waits to be subscribed."""
        self._adding.close()

    async def run(self) -> None:
        """Hear again and again, until it is cancelled."""
        while not is_ending():
            try:
                await self._one_session()
            except Exception as error:  # noqa: BLE001 — whatever ended it, there must be another
                self._lost(error)
            self._primaries.look_again()
            await asyncio.sleep(random.uniform(0, self._backoff))  # noqa: S311 — jitter, not a secret
            self._backoff = min(self._backoff * 2, _LONGEST_BACKOFF)

    async def _add_together(self, topics: Sequence[str]) -> list[None]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        await in_time(self._until_subscribed(topics), deadline, self._outcomes, NOT_READY)
        return [None for _ in topics]

    async def _until_subscribed(self, topics: Sequence[str]) -> None:
        """Subscribe to those topics that are still wanted, by whichever connections there are."""
        while wanted := [topic for topic in topics if topic in self._topics]:
            await self._up.wait()
            with contextlib.suppress(UnavailableError, RedisError, *LOST):  # the reader of the link makes another
                by_server = await self._by_server(wanted)
                links = {server: self._links.get(server) for server in by_server}
                added = [link is not None and await link.add(by_server[server]) for server, link in links.items()]
                if all(added):
                    return
            await asyncio.sleep(RETRY_SECONDS)

    async def _by_server(self, topics: Sequence[str]) -> dict[Server, list[str]]:
        by_server: dict[Server, list[str]] = {}
        for topic in topics:
            by_server.setdefault(await self._primaries.of(topic), []).append(topic)
        return by_server

    def _lost(self, error: Exception) -> None:
        while isinstance(error, ExceptionGroup):  # the first of the tasks that failed
            error = error.exceptions[0]
        reason = explain(error)
        if reason != self._said and self._logs:
            event = "listener_lost" if self.ready.is_set() else "not_listening"
            _log.warning(event, database=self._address.place, reason=reason)
        self._said = reason
        self._outcomes.failed("listen", reason)

    async def _one_session(self) -> None:
        async with self._connected(), asyncio.TaskGroup() as group:
            for link in self._links.values():
                group.create_task(link.run())
            await self._subscribe()
            await self._listening.began()
            self._backoff = _SHORTEST_BACKOFF  # it is only for servers that let nobody in
            self.ready.set()
            while True:
                await self._beat()
                await asyncio.sleep(BEAT_SECONDS)
                async with asyncio.timeout(DEAF_SECONDS):
                    await self._listening.look()

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[None]:
        try:
            for server in await self._primaries.all():
                session = await connect(self._address, server, "abide-listen")
                beats = Beats(await self._topic_of(server))
                self._links[server] = Link(
                    session, beats, self._listening.heard, self._alive, is_sharded=self._primaries.is_cluster
                )
            yield
        finally:
            self._up.clear()
            links, self._links = self._links, {}
            for link in links.values():
                await link.close()
            self._listening.lost()

    async def _topic_of(self, server: Server) -> str:
        """Return a new topic for beats that has its place on this server."""
        for number in range(_TAGS):
            if await self._primaries.of(f"{{{number}}}") == server:
                return f"abide:beat:{{{number}}}:{secrets.token_hex(8)}"
        msg = f"{server} is no primary any more"
        raise UnavailableError(msg)

    async def _subscribe(self) -> None:
        """Subscribe to what is wanted, and to what comes to be wanted meanwhile."""
        for link in self._links.values():
            await self._add(link, [link.beats.topic])
        done: set[str] = set()
        while missing := [topic for topic in self._topics if topic not in done]:
            for server, topics in (await self._by_server(missing)).items():
                await self._add(self._links[server], topics)
            done.update(missing)
        for topic in done - self._topics.keys():
            self.remove(topic)
        self._up.set()

    async def _add(self, link: Link, topics: Sequence[str]) -> None:
        """Subscribe to topics; raise TimeoutError where a server does not answer, before beats can show that."""
        for begin in range(0, len(topics), _TOPICS_AT_ONCE):
            async with asyncio.timeout(DEAF_SECONDS):
                await link.add(topics[begin : begin + _TOPICS_AT_ONCE])

    async def _beat(self) -> None:
        for link in self._links.values():
            if link.is_deaf():
                raise UnavailableError(_DEAF)
            token = link.beats.next()
            try:
                async with asyncio.timeout(DEAF_SECONDS):
                    await self._publish(link.beats.topic, token)
            except (UnavailableError, RedisError, *LOST):  # the way of commits has told why
                link.beats.not_sent(token)

    def _alive(self, seconds: float) -> None:
        self._listening.alive(seconds)
        if not self._outcomes.listens():
            if self._logs:
                _log.info("listening", database=self._address.place)
            self._said = ""
        self._outcomes.worked("listen")

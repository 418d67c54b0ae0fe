"""The hub: all subscriptions of one process, by channel."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import partial
from weakref import WeakValueDictionary

from app.core import turns
from app.core.channel import Channel, Registry
from app.core.delivery.catchup import Catchup, PageBudget
from app.core.delivery.encoded_blocks import EncodedBlocks
from app.core.delivery.encodings import Encoding
from app.core.delivery.fanout import Fanout
from app.core.delivery.flushes import Flushes
from app.core.delivery.sessions import Session, Sessions
from app.core.delivery.subscription import Subscription
from app.core.errors import AbideError, ChannelRemovedError, DisconnectedError, ExpiredError, UnavailableError, bare
from app.core.message import Page
from app.core.ports import UNMETERED, Meter, Source
from app.core.resume import Beginning, Start, begin
from app.core.rights.policy import ANONYMOUS, Identity
from app.core.tail import TAIL_BYTES, TailBudget
from app.core.turns import Pace, Steps

_HEAD = Start()

Judge = Callable[[Identity], Identity]
"""Returns a caller's identity under the current rules; raises :class:`~app.core.errors.AbideError` to refuse it."""


class _Turn(asyncio.Lock):
    """Lets one caller at a time follow a channel, and remembers how that failed last."""

    failed_at = 0.0
    error: AbideError | None = None


@dataclass(slots=True)
class _OpenChannel:
    """A channel that the bus delivers to this process."""

    fanout: Fanout[Subscription]
    catchup: Catchup
    opening: int = 0
    """How many subscriptions are being opened: the channel is needed for them too."""

    @property
    def is_idle(self) -> bool:
        return not self.opening and not len(self.fanout)


class Hub:
    """Opens and closes subscriptions; follows each channel once, however many subscriptions it has."""

    def __init__(
        self,
        source: Source,
        registry: Registry,
        judge: Judge | None = None,
        *,
        meter: Meter = UNMETERED,
        tail_bytes: int = TAIL_BYTES,
    ) -> None:
        self.meter = meter
        """Counts what happens to subscriptions, and to connections, which report it themselves."""
        self.subscribers: Counter[str] = Counter()
        """Number of subscriptions by declared name; a name that is no longer declared stays, with 0."""
        self.slow: set[Subscription] = set()
        """Subscriptions whose writer is full."""
        self._source = source
        self._registry = registry
        self.judge: Judge = judge or _as_it_is
        """Judges the identity of what is open by the rules in force."""
        self.sessions = Sessions()
        """What ends with its caller's right."""
        self._connections: set[Session] = set()
        self._tail_budget = TailBudget(tail_bytes)
        self._blocks = EncodedBlocks()
        self._flushes = Flushes()
        self._page_budget = PageBudget()
        self._followed: dict[str, _OpenChannel] = {}
        self._locks: WeakValueDictionary[str, _Turn] = WeakValueDictionary()
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def registry(self) -> Registry:
        """The rules in force."""
        return self._registry

    def __len__(self) -> int:
        """Return how many subscriptions there are."""
        return sum(len(followed.fanout) for followed in self._followed.values())

    def counts(self) -> dict[str, tuple[int, int | None]]:
        """Return the number of subscriptions and the head of each declared name that has subscriptions.

        A family has the sum of its channels' subscriptions, and None for a head.
        """
        return {name: (count, self._head(name)) for name, count in self.subscribers.items() if count}

    def _head(self, name: str) -> int | None:
        followed = self._followed.get(name)
        return followed.fanout.tail.head if followed and followed.fanout.tail.epoch else None

    async def apply(self, registry: Registry, judge: Judge | None = None) -> None:
        """Apply new rules to open connections and subscriptions; end those that are no longer allowed.

        ``judge`` derives each caller's identity again; without it identities stay as they are. New requests are under
        the new rules at once; existing connections and subscriptions follow one by one.
        """
        self._registry = registry
        self.judge = judge or _as_it_is
        await turns.run(self._judge_all())

    def admit(self, connection: Session, *, is_judged: bool = False) -> None:
        """Apply all later rules to a connection until :meth:`leave`. It must have its writer.

        ``is_judged`` says that its caller was judged in this turn of the event loop, by the rules in force.
        """
        self._connections.add(connection)
        self.sessions.enter(connection)
        if not is_judged:
            self._judge_connection(connection)  # the rules may have changed since its handshake

    def leave(self, connection: Session) -> None:
        """Forget a connection that has ended."""
        self.sessions.leave(connection)
        self._connections.discard(connection)

    async def subscribe(
        self, name: str, identity: Identity, encoding: Encoding, start: Start = _HEAD, *, has_connection: bool = False
    ) -> tuple[Subscription, Beginning]:
        """Open a subscription and return it with its beginning; close it by :meth:`unsubscribe`.

        It ends with its caller's right, unless it ``has_connection``: one that :meth:`admit` knows, and that ends then.

        Does not check the policy. Raises :class:`~app.core.errors.UnknownChannelError`, and what the backend
        raises.
        """
        channel = self._registry.find(name)
        followed = self._followed.get(name) or await self._follow(name)
        followed.opening += 1
        try:
            where = self._begin_at_once(name, followed, start) or await self._begin(name, followed, start)
            subscription = self._add(name, channel, identity, encoding, where, followed)
        finally:
            followed.opening -= 1
            self._leave_if_idle(name)
        self._count(start, where)
        if not has_connection:
            self.sessions.enter(subscription)
        self._judge(subscription)  # the rules may have changed while the bus answered
        return subscription, where

    def join(
        self, name: str, identity: Identity, encoding: Encoding, start: Start = _HEAD, *, has_connection: bool = False
    ) -> tuple[Subscription, Beginning] | None:
        """Open what :meth:`subscribe` does; None if that has to wait for the bus.

        The caller was judged in this turn of the event loop, by the rules in force.
        """
        channel, followed = self._registry.find(name), self._followed.get(name)
        where = None if followed is None else self._begin_at_once(name, followed, start)
        if followed is None or where is None:
            return None
        self._count(start, where)
        subscription = self._add(name, channel, identity, encoding, where, followed)
        if not has_connection:
            self.sessions.enter(subscription)
        return subscription, where

    def _add(  # noqa: PLR0913, PLR0917 — the parts of a subscription
        self,
        name: str,
        channel: Channel,
        identity: Identity,
        encoding: Encoding,
        where: Beginning,
        followed: _OpenChannel,
    ) -> Subscription:
        fanout = followed.fanout
        subscription = Subscription(name, channel, identity, encoding, where.cursor, fanout, followed.catchup)
        fanout.add(subscription)
        self.subscribers[channel.name] += 1
        return subscription

    def _count(self, start: Start, where: Beginning) -> None:
        """Count how a subscription begins."""
        if start.since is not None:
            self.meter.resumed(complete=where.resumed)
        if where.gap is not None:
            self.meter.missed(where.gap.reason)

    def disconnect(self, sub: str, name: str | None) -> None:
        """End what a subject has open on a channel, or everywhere; it may come back."""
        if name is None:
            self.sessions.disconnect(sub)
            return
        followed = self._followed.get(name)
        for subscription in tuple(followed.fanout) if followed else ():
            if subscription.identity.subject == sub:
                subscription.end(DisconnectedError("the application has closed this subscription: subscribe again"))

    def check(self, name: str, identity: Identity) -> Identity:
        """Return the identity of a subscriber under the rules in force.

        Raises :class:`AbideError` if it may not subscribe to this channel any more.
        """
        return self._permitted(self._registry.find(name), name, identity)

    def recheck(self, subscription: Subscription, identity: Identity) -> None:
        """Judge a subscription again, for its caller's new identity."""
        subscription.identity = identity
        self._judge(subscription)

    def unsubscribe(self, subscription: Subscription) -> None:
        """Close a subscription, and stop following its channel if it was the last one."""
        subscription.detach()
        self.sessions.leave(subscription)
        self.subscribers[subscription.channel.name] -= 1
        self._followed[subscription.name].fanout.remove(subscription)
        self._leave_if_idle(subscription.name)

    def _begin_at_once(self, name: str, followed: _OpenChannel, start: Start) -> Beginning | None:
        """Return where to begin; None if only the log can tell."""
        tail, since = followed.fanout.tail, start.since
        if start.is_head:
            return begin(start, tail.epoch, tail.head + 1, tail.head)
        if since is None or not tail.epoch or since.epoch != tail.epoch:
            return None
        if since.offset != tail.head:
            history = self._registry.history(name)
            fresh = int((time.time() - history.ttl / 2) * 1000)  # the log's clock may be another
            if not tail.shows_after(since.offset, history.size, fresh):
                return None
        return Beginning(since.offset, resumed=True, gap=None)

    async def _begin(self, name: str, followed: _OpenChannel, start: Start) -> Beginning:
        tail = followed.fanout.tail
        # In a rolling restart thousands resume while the head moves: they share one read, whatever the head is.
        page = await (followed.catchup.window() if start.since else followed.catchup.window(tail.head))
        if start.since and start.since.offset > max(page.head, tail.head):
            # Another process may have heard of that message first: only the log itself can tell.
            page = await followed.catchup.window(start.since.offset)
        head = max(page.head, tail.head)
        # Messages that arrived after that read may have pushed the oldest ones out of the history.
        first = max(page.first, head + 1 - self._registry.history(name).size)
        return begin(start, page.lineage, first, head)

    async def _follow(self, name: str) -> _OpenChannel:
        """Follow a channel unless it is followed already; one caller at a time.

        If the backend cannot be had, all who wait for their turn learn it at once: one after the other would wait for
        it again.
        """
        asked, turn = time.monotonic(), self._lock(name)
        async with turn:
            followed = self._followed.get(name)
            if followed is None:
                if turn.error is not None and turn.failed_at >= asked:
                    raise copy(turn.error)
                fanout = Fanout(name, self._tail_budget, self.meter, self.slow, self._blocks, self._flushes)
                try:
                    await self._source.follow(name, fanout)
                except UnavailableError as error:
                    turn.failed_at, turn.error = time.monotonic(), bare(copy(error))
                    raise
                catchup = Catchup(partial(self._read, name), lambda: fanout.tail.epoch, self._page_budget)
                followed = self._followed[name] = _OpenChannel(fanout, catchup)
            return followed

    async def _read(self, name: str, after: int, limit: int) -> Page:
        return await self._source.read(name, after, limit, self._registry.history(name))

    def _leave_if_idle(self, name: str) -> None:
        if self._followed[name].is_idle:
            task = asyncio.get_running_loop().create_task(self._unfollow(name))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _unfollow(self, name: str) -> None:
        async with self._lock(name):
            followed = self._followed.get(name)
            if followed is not None and followed.is_idle:
                del self._followed[name]
                await self._source.unfollow(name)

    def _judge_all(self) -> Steps[None]:
        pace = Pace()
        for connection in tuple(self._connections):
            if connection in self._connections:
                self._judge_connection(connection)
            yield from pace.pause()
        for followed in tuple(self._followed.values()):
            for subscription in tuple(followed.fanout):
                if subscription in followed.fanout:  # some may have left meanwhile
                    self._judge(subscription)
                yield from pace.pause()

    def _judge_connection(self, connection: Session) -> None:
        try:
            connection.identity = self._judged(connection.identity)
        except AbideError as refusal:
            connection.identity = ANONYMOUS  # what it has sent and is not yet handled has no rights any more
            connection.fail(refusal)

    def _judge(self, subscription: Subscription) -> None:
        channel = self._registry.get(subscription.name)
        if channel is None:
            subscription.end(ChannelRemovedError(f"channel {subscription.name!r} was removed from channels.yaml"))
            return
        try:
            subscription.identity = self._permitted(channel, subscription.name, subscription.identity)
        except AbideError as refusal:
            subscription.end(refusal)
        else:
            self.subscribers[subscription.channel.name] -= 1
            self.subscribers[channel.name] += 1
            subscription.channel = channel

    def _permitted(self, channel: Channel, name: str, identity: Identity) -> Identity:
        judged = self._judged(identity)
        if channel.check_subscribe(name, judged) is not None and not judged.asked:
            msg = f"channel {channel.name!r} now asks the application: reconnect"
            raise ExpiredError(msg)
        return judged

    def _judged(self, identity: Identity) -> Identity:
        """Return an identity under the rules in force; what the application has said of it stays."""
        judged = self.judge(identity)
        if not identity.asked:
            return judged
        name, subject, ends = identity.name, identity.subject, identity.ends
        return judged._replace(fault=None, asked=True, name=name, subject=subject, ends=ends)

    def _lock(self, name: str) -> _Turn:
        return self._locks.setdefault(name, _Turn())


def _as_it_is(identity: Identity) -> Identity:
    return identity

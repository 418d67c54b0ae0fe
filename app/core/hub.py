"""The hub: one process's subscriptions, channel by channel."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

from app.core.channel import Identity, Registry
from app.core.errors import AbideError, ChannelRemovedError
from app.core.fanout import Fanout
from app.core.ports import Source
from app.core.subscription import Subscription
from app.core.tail import Budget

TAIL_BYTES = 64 * 1024 * 1024
"""What all tails of a process hold together, at most."""


class Hub:
    """Follows each channel once, however many subscriptions it has in this process."""

    def __init__(self, source: Source, registry: Registry, *, tail_bytes: int = TAIL_BYTES) -> None:
        self._source = source
        self._registry = registry
        self._budget = Budget(tail_bytes)
        self._followed: dict[str, Fanout[Subscription]] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._leaving: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Return how many subscriptions there are."""
        return sum(len(fanout) for fanout in self._followed.values())

    def apply(self, registry: Registry) -> None:
        """Bring the open subscriptions under new rules; end those that they no longer admit."""
        self._registry = registry
        for fanout in self._followed.values():
            for subscription in fanout:
                self._judge(subscription)

    async def subscribe(self, name: str, identity: Identity) -> Subscription:
        """Open a subscription at the head of the channel, until :meth:`unsubscribe`.

        Raises :class:`~app.core.errors.UnknownChannelError`, and what the backend raises; the
        caller has checked the policy.
        """
        channel = self._registry.find(name)
        fanout = self._followed.get(name)
        if fanout is None:
            fanout = await self._follow(name)
        subscription = Subscription(name, channel, identity, fanout, self._source)
        fanout.add(subscription)
        self._judge(subscription)  # the rules may have changed while the bus was asked
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Close a subscription; the channel's last one takes the channel with it."""
        subscription.detach()
        fanout = self._followed[subscription.name]
        fanout.remove(subscription)
        if not fanout:
            task = asyncio.get_running_loop().create_task(self._unfollow(subscription.name))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _follow(self, name: str) -> Fanout[Subscription]:
        """Follow a channel, one caller at a time."""
        async with self._lock(name):
            fanout = self._followed.get(name)
            if fanout is None:
                fanout = Fanout(self._budget)
                await self._source.follow(name, fanout)
                self._followed[name] = fanout
            return fanout

    async def _unfollow(self, name: str) -> None:
        async with self._lock(name):
            fanout = self._followed.get(name)
            if fanout is not None and not fanout:
                del self._followed[name]
                await self._source.unfollow(name)

    def _judge(self, subscription: Subscription) -> None:
        channel = self._registry.get(subscription.name)
        if channel is None:
            subscription.end(ChannelRemovedError(f"channel {subscription.name!r} was removed from channels.yaml"))
            return
        try:
            channel.check_subscribe(subscription.identity)
        except AbideError as refusal:
            subscription.end(refusal)
        else:
            subscription.channel = channel

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

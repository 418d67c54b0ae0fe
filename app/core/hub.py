"""The hub: one process's subscriptions, and the tails that serve them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from app.core.channel import Identity, Registry
from app.core.errors import AbideError, ChannelRemovedError
from app.core.ports import Source
from app.core.subscription import Subscription
from app.core.tail import Budget, Tail

TAIL_BYTES = 64 * 1024 * 1024
"""What all tails of a process hold together, at most."""


@dataclass(slots=True)
class _Followed:
    tail: Tail
    subscriptions: set[Subscription] = field(default_factory=set)


class Hub:
    """Follows each channel once, however many subscriptions it has in this process."""

    def __init__(self, source: Source, registry: Registry, *, tail_bytes: int = TAIL_BYTES) -> None:
        self._source = source
        self._registry = registry
        self._budget = Budget(tail_bytes)
        self._followed: dict[str, _Followed] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def subscribe(self, name: str, identity: Identity) -> AsyncIterator[Subscription]:
        """Open a subscription at the head of the channel for as long as the context lasts.

        Raises :class:`~app.core.errors.UnknownChannelError`; the caller has checked the policy.
        """
        subscription = await self._open(name, identity)
        try:
            yield subscription
        finally:
            await self._close(subscription)

    def apply(self, registry: Registry) -> None:
        """Bring the open subscriptions under new rules; end those that they no longer admit."""
        self._registry = registry
        for followed in self._followed.values():
            for subscription in followed.subscriptions:
                self._judge(subscription)

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

    async def _open(self, name: str, identity: Identity) -> Subscription:
        channel = self._registry.find(name)
        async with self._lock(name):
            followed = self._followed.get(name)
            if followed is None:
                followed = _Followed(Tail(self._budget))
                await self._source.follow(name, followed.tail)
                self._followed[name] = followed
            subscription = Subscription(name, channel, identity, followed.tail, self._source)
            followed.subscriptions.add(subscription)
            self._judge(subscription)  # the rules may have changed while the bus was asked
            return subscription

    async def _close(self, subscription: Subscription) -> None:
        name = subscription.name
        async with self._lock(name):
            followed = self._followed[name]
            followed.subscriptions.discard(subscription)
            if not followed.subscriptions:
                del self._followed[name]
                await self._source.unfollow(name)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

"""Counts what is published from outside, and refuses what is more than a channel's ``rate_limit`` allows."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from app.core import turns
from app.core.channel import Channel
from app.core.errors import RateLimitedError
from app.core.limits.rates import SECOND, Rate
from app.core.ports import Meter, client_of

MOST_BUCKETS = 100_000
"""The most buckets that a worker remembers; the one that was used longest ago is forgotten first."""

Key = tuple[str, ...]
"""Whose bucket it is: a tuple, because joined names could be those of another."""


class RateLimits:
    """The token buckets of one worker.

    A bucket is one number: when it is full again, by the clock. A full bucket is the same as none, so it is forgotten.
    """

    def __init__(
        self, meter: Meter, clock: Callable[[], int] = time.monotonic_ns, most_buckets: int = MOST_BUCKETS
    ) -> None:
        """``clock`` returns nanoseconds and never goes back."""
        self._meter = meter
        self._clock = clock
        self._most = most_buckets
        self._full_at: OrderedDict[Key, int] = OrderedDict()
        """The buckets, in the order of their last use.

        No dict: its first key costs a look at each key that was removed before it.
        """

    def __len__(self) -> int:
        """Return how many buckets are remembered."""
        return len(self._full_at)

    def take(self, channel: Channel, name: str, publisher: str, address: str | None) -> None:
        """Count a message to the channel ``name`` that is about to be published.

        ``publisher`` is the name of its publisher's identity, ``address`` the publisher's address.

        Raises :class:`~app.core.errors.RateLimitedError`, and counts nothing, if it exceeds the channel's rate limit.
        """
        limit = channel.rate_limit
        if limit is None:
            return
        now = self._clock()
        buckets: list[tuple[Key, Rate]] = []
        if limit.per_identity is not None:
            buckets.append((_publisher(channel, publisher, address), limit.per_identity))
        if limit.per_channel is not None:
            buckets.append(((name,), limit.per_channel))
        for key, rate in buckets:
            wait = self._after_one_more(key, rate, now) - now - rate.burst * rate.interval
            if wait > 0:
                self._meter.limited("rate_limit")
                raise _refusal(name, rate, wait, is_publishers=len(key) > 1)
        for key, rate in buckets:
            full_at = self._after_one_more(key, rate, now)
            self._full_at.pop(key, None)  # so that the newest are last
            self._full_at[key] = full_at
        while len(self._full_at) > self._most:
            self._full_at.popitem(last=False)

    async def forget(self) -> None:
        """Forget the buckets that are full, as those of publishers are who publish nothing."""
        now = self._clock()
        await turns.each(list(self._full_at.items()), lambda bucket: self._forget(*bucket, now))

    def _after_one_more(self, key: Key, rate: Rate, now: int) -> int:
        """Return when a bucket is full again if it gives one more message."""
        full_at, empty = self._full_at.get(key, now), now + rate.burst * rate.interval
        if full_at > empty:  # it was filled more slowly, before a reload
            full_at = self._full_at[key] = empty
        return max(full_at, now) + rate.interval

    def _forget(self, key: Key, full_at: int, now: int) -> None:
        if full_at <= now and self._full_at.get(key) == full_at:  # it may have been used meanwhile
            del self._full_at[key]


def _publisher(channel: Channel, publisher: str, address: str | None) -> Key:
    """Return whose bucket it is: a publisher's with a name, or an address's."""
    if publisher:
        return channel.name, "name", publisher
    return channel.name, "address", client_of(address)


def _refusal(name: str, rate: Rate, wait: int, *, is_publishers: bool) -> RateLimitedError:
    seconds = -(-wait // SECOND)
    of = "one publisher" if is_publishers else "all publishers together"
    detail = f"channel {name!r} accepts at most {rate} from {of} (rate_limit): send this message again in {seconds} s"
    return RateLimitedError(detail, retry_after=seconds)

"""What this process hears of the channels that it follows, and what it looks up because it was not heard."""

from __future__ import annotations

from app.bus import heads
from app.bus.follower import Follower
from app.bus.redis.streams import names, publications
from app.bus.redis.streams.log_reads import LogReads
from app.bus.redis.streams.promises import Promises
from app.core.ports import Meter

_LOOKED_AT_ONCE = 500
"""How many heads are compared with each beat."""


class Listener:
    """Tells ``follower`` what is heard. Implements ``Listening`` of the subscriber."""

    def __init__(self, follower: Follower, reads: LogReads, promises: Promises, meter: Meter) -> None:
        self._follower = follower
        self._reads = reads
        self._promises = promises
        self._meter = meter
        self._waiting: list[str] = []
        """The channels that are still to be compared in this round."""

    def heard(self, topic: str, payload: bytes) -> None:
        """Take in a publication."""
        channel = names.channel_of(topic)
        if channel not in self._follower:
            return
        told = publications.read(payload, self._reads.secrets.get(channel, b""))
        if told is None:
            return
        if told.messages:
            self._follower.hear(channel, told.epoch, told.messages)
        else:
            self._follower.look(channel, told.last)

    async def began(self) -> None:
        """Compare all heads; hand out nothing before, as what was taken back may be among what was missed."""
        await self._reads.renew()
        await heads.compare(self._follower, self._reads.places)
        await self._promises.tell()

    async def look(self) -> None:
        """Compare some of the heads: each has its turn."""
        if not self._waiting:
            self._waiting = list(self._follower.places())
        part, self._waiting = self._waiting[:_LOOKED_AT_ONCE], self._waiting[_LOOKED_AT_ONCE:]
        await heads.compare_some(self._follower, self._reads.places, part)

    def lost(self) -> None:
        """Hold back what comes until the heads are compared."""
        self._follower.hold()

    def alive(self, seconds: float) -> None:
        """Note how long a beat took."""
        self._meter.heard(seconds)

"""Compares the heads of the log with what the follower has: finds what was missed, and a log that went back."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from app.bus.follower import Follower
from app.bus.place import Place

Places = Callable[[Sequence[str]], Awaitable[Mapping[str, Place]]]
"""Reads the places of channels. A log that went back must have another lineage by the time its place is read."""


async def compare(follower: Follower, read_places: Places) -> None:
    """Read the places of what is followed, and tell the follower of them. Raises what ``read_places`` raises."""
    await compare_some(follower, read_places, list(follower.places()))
    follower.seen = time.monotonic()
    follower.release()


async def compare_some(follower: Follower, read_places: Places, channels: Sequence[str]) -> None:
    """Do so for some channels; those that are not followed are left out."""
    before = follower.places(channels)
    for channel, place in (await read_places(list(before))).items():
        if follower.judge(channel, before[channel].head, place):
            follower.look(channel, place.head)


class Turns:
    """Takes some of a list, others each time, where all are too many to look at."""

    def __init__(self) -> None:
        self._begin = 0

    def take(self, channels: Sequence[str], most: int) -> Sequence[str]:
        """Return the next ones, ``most`` at the most."""
        begin = self._begin if self._begin < len(channels) else 0
        self._begin = begin + most
        return channels[begin : begin + most]

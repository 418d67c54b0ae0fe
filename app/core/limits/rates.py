"""How often messages may be published to a channel: the values of ``rate_limit``."""

from __future__ import annotations

from typing import NamedTuple

SECOND = 1_000_000_000
"""Nanoseconds."""

UNITS = {1: "s", 60: "m", 3600: "h"}
"""How the periods of a rate are written, by their seconds."""


class Rate(NamedTuple):
    """So many messages in so many seconds on average, and how many at once."""

    messages: int
    seconds: int
    burst: int

    @property
    def interval(self) -> int:
        """Nanoseconds in which one message becomes free."""
        return self.seconds * SECOND // self.messages

    def __str__(self) -> str:
        return f"{self.messages}/{UNITS[self.seconds]}"


class RateLimit(NamedTuple):
    """The rates of one channel; None where there is no limit."""

    per_identity: Rate | None = None
    """What one publisher may publish, over all channels of a family together."""
    per_channel: Rate | None = None
    """What all publishers together may publish to a channel, or to each channel of a family."""

    def __str__(self) -> str:
        own, all_ = self.per_identity, self.per_channel
        if own is not None and all_ is None and own.burst == own.messages:
            return str(own)
        parts = [f"per_identity: {own}"] if own is not None else []
        parts += [f"per_channel: {all_}"] if all_ is not None else []
        parts += [f"burst: {own.burst}"] if own is not None and own.burst != own.messages else []
        return f"{{{', '.join(parts)}}}"

"""What is asked for where reads of a page go together."""

from __future__ import annotations

from typing import NamedTuple

from app.core.channel import HistoryWindow


class PageOf(NamedTuple):
    """At most ``limit`` messages of a channel past an offset, of what its history shows."""

    channel: str
    after: int
    limit: int
    history: HistoryWindow

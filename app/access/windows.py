"""What the log keeps of the channels that the server has for itself, whatever ``defaults`` in channels.yaml say."""

from __future__ import annotations

from app.access import revocations, tickets
from app.core.channel import ACCESS, TICKETS, HistoryWindow


def internal(channel: str, lifetime: float) -> HistoryWindow | None:
    """Return the window of an internal channel; None of any other. No token lives for longer than ``lifetime``."""
    if channel == ACCESS:
        return revocations.window(lifetime)
    return tickets.WINDOW if channel == TICKETS else None

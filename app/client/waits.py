"""How long the client waits, in seconds."""

from __future__ import annotations

import random

BASE, CAP = 0.1, 5.0  # a pause is at most BASE, doubled with each attempt up to CAP
OPEN_SECONDS = 15.0  # for a connection, for its first frame, and for a new token
ANSWER_SECONDS = 8.0  # for the answer to one attempt to publish
LONGEST_WAIT = 60.0  # of a Retry-After


def backoff(attempt: int) -> float:
    """Return the seconds to pause after attempt 0, 1, 2, …: anything up to a bound that doubles (full jitter)."""
    return random.uniform(0, min(CAP, BASE * 2 ** min(attempt, 16)))  # noqa: S311 — it spreads load, and guards nothing

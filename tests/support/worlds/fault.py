"""What breaks, and when."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """What breaks, and when: seconds from the beginning. ``seconds`` is how long, of what lasts."""

    at: float
    kind: str
    way: str
    """Which of several ways it breaks."""

    seconds: float

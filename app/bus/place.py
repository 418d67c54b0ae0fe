"""Where a channel is in the log."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """A channel's head, and the lineage of its messages up to there (``docs/design/epochs.md``)."""

    lineage: str
    head: int

"""Epochs of a channel's log, and which of its messages another log, or an earlier life of it, has in common with it.

A *lineage* tells where epochs began in a channel, the newest first, as text::

    3f2a90b1F12P77ab03c4F6P8c1f29d3     3f2a90b1 from offset 12 on; before it 77ab03c4 from 6 on; before it 8c1f29d3

``N`` instead of ``F`` means that the channel began there, or began again after it had been forgotten. A name has 8
characters; one that is alone may have up to 64, and is then known by all of them or by its first 8. What a position is
labelled with is as much of a lineage as fits into :data:`LABEL` characters: so it says from where on its log may differ
from one that knows only an older epoch. docs/design/epochs.md has the argument.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from app.core.message import Position

LABEL = 64
"""The most characters that the epoch of a position has."""

NAME = 8
"""Characters of an epoch's name."""

_ENTRY = re.compile(r"([a-z0-9]+)(?:[FN]([0-9]{1,16}))?(?:P|\Z)", re.ASCII)
"""One epoch, and where it began."""


def label(lineage: str) -> str:
    """Return what positions of the channel are labelled with."""
    if len(lineage) <= LABEL:
        return lineage
    end = lineage.rindex("P", 0, LABEL + 1)
    cut = lineage[:end]
    return cut[: max(cut.rfind("F"), cut.rfind("N"))]  # where the oldest of them began is of no use


def name(text: str) -> str:
    """Return the newest epoch of a lineage or a label."""
    return text[:NAME]


def begins(lineage: str) -> int:
    """Return the offset at which the channel began, or began again; 1 where nothing is known of that."""
    begun = lineage.rpartition("N")[2].partition("P")[0]
    return int(begun) if begun.isdecimal() and "N" in lineage else 1


def shared(since: Position, lineage: str, head: int) -> int | None:
    """Return the offset up to which a reader at ``since`` has what a log of this lineage and head has.

    None when the two have no epoch in common that either still tells of.
    """
    ours = list(_entries(lineage))
    most = since.offset
    for theirs, first in _entries(since.epoch):
        end = head
        for known, begun in ours:
            if _same(theirs, known):
                return min(most, end)
            end = begun - 1
        most = min(most, first - 1)
    return None


def _entries(lineage: str) -> Iterator[tuple[str, int]]:
    """Yield each epoch's name and its first offset in the channel, which the oldest one does not tell."""
    at = 0
    while found := _ENTRY.match(lineage, at):
        yield found[1], int(found[2] or 1)
        at = found.end()


def _same(one: str, other: str) -> bool:
    return one == other or (NAME in (len(one), len(other)) and one[:NAME] == other[:NAME])

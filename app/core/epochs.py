"""Epochs: which messages a channel's log has in common with an earlier state of it, or with another log.

A *lineage* is a text that says where each epoch of a channel began, the newest first::

    3f2a90b1F12P77ab03c4F6P8c1f29d3     3f2a90b1 from offset 12 on; before it 77ab03c4 from 6 on; before it 8c1f29d3

``N`` instead of ``F`` means that the channel began there, or began again after the log had forgotten it. A name has 8
characters; a name without others may have up to 64, and is compared as a whole or by its first 8. The label of a
position is as much of a lineage as fits into :data:`LABEL` characters, so it says where its log may begin to differ
from one that knows only an older epoch. docs/design/epochs.md has the argument.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from app.core.message import Position

LABEL = 64
"""The most characters of the epoch in a position."""

NAME = 8
"""How many characters the name of an epoch has."""

_ENTRY = re.compile(r"([a-z0-9]+)(?:[FN]([0-9]{1,16}))?(?:P|\Z)", re.ASCII)
"""One epoch and the offset at which it began."""


def label(lineage: str) -> str:
    """Return the label of the channel's positions."""
    if len(lineage) <= LABEL:
        return lineage
    end = lineage.rindex("P", 0, LABEL + 1)
    cut = lineage[:end]
    return cut[: max(cut.rfind("F"), cut.rfind("N"))]  # the beginning of the oldest one is of no use


def name(text: str) -> str:
    """Return the newest epoch of a lineage or a label."""
    return text[:NAME]


def begins(lineage: str) -> int:
    """Return the offset at which the channel began, or began again; 1 if the lineage does not say."""
    begun = lineage.rpartition("N")[2].partition("P")[0]
    return int(begun) if begun.isdecimal() and "N" in lineage else 1


def shared(since: Position, lineage: str, head: int) -> int | None:
    """Return the offset up to which a reader at ``since`` has the same messages as a log of this lineage and head.

    Returns None if the two texts have no epoch in common.
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
    """Yield each epoch's name and first offset; 1 for the oldest, whose beginning is not written."""
    at = 0
    while found := _ENTRY.match(lineage, at):
        yield found[1], int(found[2] or 1)
        at = found.end()


def _same(one: str, other: str) -> bool:
    return one == other or (NAME in (len(one), len(other)) and one[:NAME] == other[:NAME])

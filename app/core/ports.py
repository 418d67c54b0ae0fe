"""The small protocols that the rooms hand each other, so that no room needs to know the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from app.core.channel import History
from app.core.errors import AbideError
from app.core.message import Batch, Page, Position, Published, Record

Outcome = Published | AbideError
"""What became of one record: stored, or refused and why."""


class Publisher(Protocol):
    """Where messages go in."""

    async def publish(self, records: Sequence[Record]) -> list[Outcome]:
        """Append the records in order and return one outcome for each.

        Returns when they are stored. Raises :class:`~app.core.errors.OverloadedError` when
        too many wait already.
        """


class Sink(Protocol):
    """Who is handed a channel's messages as they are appended."""

    def start(self, position: Position) -> None:
        """Learn where the live messages begin: after ``position``. Called once, first."""

    def deliver(self, batch: Batch) -> None:
        """Take the next messages. Must not block: the bus waits for it."""


class Source(Protocol):
    """Where messages come out."""

    async def follow(self, channel: str, sink: Sink) -> None:
        """Hand ``sink`` everything appended to the channel from now on, in order, once."""

    async def unfollow(self, channel: str) -> None:
        """Stop what :meth:`follow` began."""

    async def read(self, channel: str, after: int, limit: int, history: History) -> Page:
        """Read at most ``limit`` messages past offset ``after`` that ``history`` still shows."""

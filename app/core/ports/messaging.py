"""How messages reach the log, and how they come back: between the web, the bus and the core."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

from app.core.channel import HistoryWindow
from app.core.errors import AbideError
from app.core.message import Batch, EpochChange, Page, Position, Published, Record

Outcome = Published | AbideError
"""What became of one record: stored, or refused and why."""


class Submitted(Protocol):
    """Records that were given to a :class:`Publisher`: a future of one outcome for each, in their order."""

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call ``callback`` with this when the outcomes are known, and never within this call."""

    def result(self) -> list[Outcome]:
        """Return the outcomes, which are known."""

    def __await__(self) -> Generator[Any, None, list[Outcome]]:
        """Wait for the outcomes."""


class Publisher(Protocol):
    """Appends messages to the log."""

    def publish(self, records: Sequence[Record]) -> Submitted:
        """Append the records in order; the outcomes are known when they are stored or refused.

        Raises :class:`~app.core.errors.OverloadedError` at once if too many records are waiting already.
        """


class Sink(Protocol):
    """Receives a channel's messages as they are appended."""

    def start(self, position: Position) -> None:
        """Learn that the first messages come after ``position``. Called once, before everything else."""

    def deliver(self, batch: Batch) -> None:
        """Take the next messages. Must not block: the bus waits for it."""

    def change_epoch(self, change: EpochChange) -> None:
        """Learn that the log goes on in another epoch. Must not block."""

    def lose(self) -> None:
        """Learn that messages may be lost, after those that were delivered and before the next. Must not block."""

    def failed(self) -> None:
        """Learn that :meth:`deliver` has raised: end what is open, so that clients reconnect and resume."""


class Source(Protocol):
    """Delivers messages as they are appended, and reads earlier ones."""

    async def follow(self, channel: str, sink: Sink) -> None:
        """Hand ``sink`` everything appended to the channel from now on, in order, once."""

    async def unfollow(self, channel: str) -> None:
        """Stop what :meth:`follow` began."""

    async def read(self, channel: str, after: int, limit: int, history: HistoryWindow) -> Page:
        """Read at most ``limit`` messages past offset ``after`` that ``history`` still shows."""

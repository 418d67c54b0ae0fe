"""The contract of a backend: a log per channel, and its messages handed out as they are appended.

``tests/bus/conformance.py`` holds every implementation to it. Invariants:

* Offsets of a channel are 1, 2, 3, … without gaps, in the order of commits. A backend that forgets names may begin
  one later, so that no offset of an epoch comes twice.
* What :meth:`Backend.append` reports as stored is stored. On a durable backend it survives a crash of everything.
* :meth:`Backend.next_batch` hands out each channel's messages in order, each once. Where the log lost messages before
  they could be handed out, the next batch starts later, as its ``first`` shows. Where the log has gone back, a
  :class:`~app.core.message.EpochChange` comes before the messages that replace the lost ones.

A backend whose engine keeps no history has live messages alone, in order, each once or not at all. Where it may have
missed some, a :class:`~app.core.message.Loss` comes before the next. Its positions have no epoch, and its pages no
messages. The server's own channels, whose names begin with ``$``, are a log on every backend.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.core.channel import HistoryWindow
from app.core.message import News, Page, Position, Record
from app.core.ports import Outcome

KEY_LIFETIME = 600
"""Seconds for which an idempotency key is remembered."""

PATIENCE_SECONDS = 5.0
"""How long a read, or a commit without a deadline, waits for a log that is away before it is refused."""

PAGE_BYTES = 256 * 1024
"""The most bytes of messages that one read returns; it returns one message at least."""

Retention = Callable[[str], HistoryWindow]
"""Returns what to keep of a channel. Call it each time, because a reload changes the answer."""


@dataclass(frozen=True, slots=True)
class BackendHealth:
    """Whether the backend can be used now."""

    ok: bool
    detail: str
    """For operators: what is wrong, or what it is connected to. Never a secret."""


class Backend(ABC):
    """One implementation of the log. It begins disconnected, lives in one event loop and cannot be reused."""

    answers_first = False
    """Whether publishers are answered before the next append begins, so that those who publish again are in it.

    That makes fewer and larger appends, for a backend whose appends take this process's own time. Others work on an
    append while the last one is answered.
    """

    @abstractmethod
    async def connect(self) -> None:
        """Connect, or return while still trying: :meth:`health` says which."""

    @abstractmethod
    async def disconnect(self) -> None:
        """Release everything. Never raises."""

    @abstractmethod
    async def append(self, records: Sequence[Record], deadline: float | None = None) -> list[Outcome]:
        """Store the records as one batch, in order; return one outcome for each, at the ``deadline`` at the latest.

        The deadline is a time of :func:`time.monotonic`; None lets the backend choose. Called by one task at a time.

        A record whose key its publisher has used in the channel (within :data:`KEY_LIFETIME`) is not stored again: its
        outcome is the first one, marked as replayed, or :class:`~app.core.errors.KeyReusedError` when its data differs.
        Raises :class:`~app.core.errors.UnavailableError` when nothing was stored.
        """

    @abstractmethod
    async def read(self, channel: str, after: int, limit: int, history: HistoryWindow) -> Page:
        """Read at most ``limit`` messages past ``after``, of those that ``history`` shows.

        Returns fewer only at the head, or at :data:`PAGE_BYTES`, but one message at least; read on after the last one.
        A ``limit`` of 0 asks for ``first`` and ``head`` alone.
        """

    @abstractmethod
    async def head(self, channel: str) -> int:
        """Return the offset of the channel's newest message; 0 before the first."""

    @abstractmethod
    async def follow(self, channel: str) -> Position:
        """Begin to hand out the channel's messages; return the position they begin after."""

    @abstractmethod
    async def unfollow(self, channel: str) -> None:
        """Hand out no more of the channel. Never raises."""

    @abstractmethod
    async def next_batch(self) -> News:
        """Wait for the next messages of any followed channel, or for what happened to it. Called by one task."""

    def ready_batch(self) -> News | None:
        """Return what :meth:`next_batch` would return without a wait; None if it would wait, or cannot tell."""
        return None

    @abstractmethod
    async def health(self) -> BackendHealth:
        """Say at once whether the backend can be used, from what is known and without asking it."""

"""The contract of a backend: a log per channel, and word of what is appended.

``tests/bus/conformance.py`` holds every implementation to it. Invariants:

* Offsets of a channel are 1, 2, 3, … without gaps, in the order of commits. A backend that forgets names may let one
  begin later, so that no offset of an epoch comes twice.
* What :meth:`Backend.append` reports as stored is stored; on a durable backend it survives
  a crash of everything.
* :meth:`Backend.next_batch` hands out each channel's messages in order, each once. Where the
  log lost messages before they could be handed out, the next batch simply starts later: its
  ``first`` tells. Where the log was put back, a :class:`~app.core.message.EpochChange` comes before what comes instead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.core.channel import HistoryWindow
from app.core.message import Batch, EpochChange, Page, Position, Record
from app.core.ports import Outcome

KEY_LIFETIME = 600
"""Seconds for which an idempotency key is remembered."""

PAGE_BYTES = 256 * 1024
"""Bytes of messages that one read returns, at most; but one message at least."""

Retention = Callable[[str], HistoryWindow]
"""What to keep of a channel, asked anew each time: the answer changes on reload."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the backend can be worked with now."""

    ok: bool
    detail: str
    """For operators: what is wrong, or what it is connected to; never a secret."""


class Backend(ABC):
    """One implementation of the log. Made disconnected; one event loop; not reusable."""

    @abstractmethod
    async def connect(self) -> None:
        """Get ready, or return while still trying: :meth:`health` tells which."""

    @abstractmethod
    async def disconnect(self) -> None:
        """Let go of everything. Never raises."""

    @abstractmethod
    async def append(self, records: Sequence[Record], deadline: float | None = None) -> list[Outcome]:
        """Store the records as one batch, in order; return one outcome for each, at the ``deadline`` at the latest.

        That is a time of :func:`time.monotonic`; None leaves it to the backend. Called by one task at a time.

        A record whose key its publisher has used in the channel (within :data:`KEY_LIFETIME`) is not stored again: its
        outcome is the first one, marked as replayed, or :class:`~app.core.errors.KeyReusedError` when its data differs.
        Raises :class:`~app.core.errors.UnavailableError` when nothing was stored.
        """

    @abstractmethod
    async def read(self, channel: str, after: int, limit: int, history: HistoryWindow) -> Page:
        """Read at most ``limit`` messages past ``after``, of those that ``history`` shows.

        At most :data:`PAGE_BYTES` of them, but one message at least: who wants more reads on from the last one.
        ``limit`` 0 asks for ``first`` and ``head`` alone.
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
    async def next_batch(self) -> Batch | EpochChange:
        """Wait for the next messages of any followed channel, or for the turn of its log. Called by one task."""

    @abstractmethod
    async def health(self) -> Health:
        """Say how the backend is, at once: from what is known, not by asking it."""

"""The small protocols that the rooms hand each other, so that no room needs to know the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
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

    @property
    def epoch(self) -> str:
        """The id of this life of the log; valid once something was read or followed."""

    async def follow(self, channel: str, sink: Sink) -> None:
        """Hand ``sink`` everything appended to the channel from now on, in order, once."""

    async def unfollow(self, channel: str) -> None:
        """Stop what :meth:`follow` began."""

    async def read(self, channel: str, after: int, limit: int, history: History) -> Page:
        """Read at most ``limit`` messages past offset ``after`` that ``history`` still shows."""


class Writer(Protocol):
    """One connection that was handed over by the server: bytes go in, nothing waits.

    Got from the ASGI extension ``abide.fanout``. Valid until ``Peer.closed``; then everything
    is ignored.
    """

    def write(self, data: bytes) -> None:
        """Send bytes that are whole frames of the connection's wire format, shared or not."""

    def is_full(self) -> bool:
        """Whether more is buffered than :meth:`write` should add to; ``Peer.drained`` ends it."""

    def close(self, code: int, reason: str) -> None:
        """Send a close with ``code`` and end the connection; ``Peer.closed`` follows."""

    def pause(self) -> None:
        """Read nothing more from the peer until :meth:`resume`: what it sends waits in its socket."""

    def resume(self) -> None:
        """Read on."""


class Peer(Protocol):
    """Who is told what happens on a connection that was handed over. None of these may block."""

    def received(self, data: bytes, *, text: bool) -> None:
        """Take one message of the peer; text is valid UTF-8."""

    def full(self) -> None:
        """Learn that the peer reads too slowly: the buffer is over its limit."""

    def drained(self) -> None:
        """Learn that the buffer has room again; follows each :meth:`full`."""

    def closed(self, code: int) -> None:
        """Learn that the connection has ended, with this close code. The last call."""


class Handover(Protocol):
    """The ASGI extension ``abide.fanout``: ``scope["extensions"]["abide.fanout"]``.

    Called once, after ``websocket.accept`` was sent: from then on the connection is the peer's,
    and the ASGI application returns.
    """

    def __call__(self, peer: Peer) -> Writer:
        """Hand the connection over to ``peer``."""


DRAIN = "abide.drain"
"""Where a scope's ``state`` has the server's :class:`Drain`."""


class Drain(Protocol):
    """How the server ends gradually what it serves, before it stops."""

    has_begun: bool
    """Whether the server takes no new connections any more."""

    def lasting(self, end: Callable[[], object]) -> AbstractContextManager[object]:
        """Return the context in which a response lasts, until the server calls ``end``.

        It is called when the response's turn has come in the drain, or when it has lasted as long
        as a connection may; it must not block, and may be called again.
        """

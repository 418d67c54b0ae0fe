"""Counts what happens, for whatever shows it to operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Meter(Protocol):
    """Counts what happens. Called once for a batch, on the hottest paths; none of these methods may block.

    Channels are named as in requests: the meter knows the declared name of each.
    """

    def appended(self, messages: int, seconds: float) -> None:
        """Count one append to the backend: how many messages it had, and how long it took."""

    def published(self, messages: Mapping[str, int]) -> None:
        """Count stored messages by channel; a channel that SQL publishes to may be undeclared."""

    def heard(self, seconds: float) -> None:
        """Note the time from a notification's sending until this process received it."""

    def delivered(self, channel: str, messages: int, oldest: int | None = None) -> None:
        """Count messages that were written to connections: each message once for each connection.

        ``oldest`` is the time of the oldest of them, if they were written as they came, and not to catch up.
        """

    def resumed(self, *, complete: bool) -> None:
        """Count a subscription that began after a position; ``complete`` if nothing was missing."""

    def missed(self, reason: str) -> None:
        """Count a gap that a subscriber is told of."""

    def connected(self, kind: str) -> None:
        """Count the beginning of a connection of this kind: ``websocket``, ``sse`` or ``poll``."""

    def disconnected(self, kind: str) -> None:
        """Count the end of a connection."""

    def refused(self, code: str) -> None:
        """Count a push that was refused, or one item of it, by the error's code."""

    def failed(self, kind: str) -> None:
        """Count a failure: a bug, or another server that did not answer as it should.

        A bug ended a ``connection``, a ``delivery`` or a ``request``; the other server is ``jwks`` or ``ask``.
        """

    def limited(self, limit: str) -> None:
        """Count a client that reached a limit, by the limit's name in docs/security.md."""


class _Unmetered(Meter):
    """Counts nothing."""


UNMETERED: Meter = _Unmetered()  # type: ignore[abstract] # doing nothing is its purpose
"""A meter that counts nothing."""


METER = "abide.meter"
"""The key of the application's :class:`Meter` in the lifespan's ``state``."""

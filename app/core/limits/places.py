"""Counts the connections that last, and refuses those that are too many."""

from __future__ import annotations

from collections import Counter

from app.core.errors import OverloadedError, TooManyError
from app.core.ports import InForce, Meter, client_of

RETRY_SECONDS = 5
"""When a client that was refused may try again."""


class Places:
    """The places for sockets, event streams and long-polls in one worker, and those of each client address."""

    def __init__(self, in_force: InForce, meter: Meter) -> None:
        self._in_force = in_force
        self._meter = meter
        self._count = 0
        self._taken: Counter[str] = Counter()

    def take(self, address: str | None) -> None:
        """Take a place for a client; :meth:`give_back` it when the connection ends.

        Raises :class:`~app.core.errors.OverloadedError` if the worker has none,
        :class:`~app.core.errors.TooManyError` if the client's address has all of its own.
        """
        limits, client = self._in_force(), client_of(address)
        if self._count >= limits.connections:
            self._meter.limited("connections")
            msg = f"this worker has {limits.connections} connections (limits.connections): try again later"
            raise OverloadedError(msg, retry_after=RETRY_SECONDS)
        most = limits.connections_per_address
        if most is not None and self._taken[client] >= most:
            self._meter.limited("connections_per_address")
            msg = f"your address has {most} connections (limits.connections_per_address): close one, or try again later"
            raise TooManyError(msg, retry_after=RETRY_SECONDS)
        self._count += 1
        self._taken[client] += 1

    def has_room(self, address: str | None) -> bool:
        """Whether there is a place for a client."""
        limits = self._in_force()
        most = limits.connections_per_address
        is_free = most is None or self._taken[client_of(address)] < most
        return is_free and self._count < limits.connections

    def give_back(self, address: str | None) -> None:
        """Give a place back."""
        client = client_of(address)
        self._count -= 1
        self._taken[client] -= 1
        if not self._taken[client]:
            del self._taken[client]

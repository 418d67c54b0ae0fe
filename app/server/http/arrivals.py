"""Bounds connections before they become links: how many there are, and how many owe a request head.

A connection that owes a request head costs the client one packet, and the server memory and a descriptor. So when too
many owe one, the one that has owed it longest makes room: a client that sends its request at once is always served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from app.core.ports import client_of
from app.server.http.forwarded import Address
from app.server.lasting.link_context import LinkContext
from app.wire.handshake import RefusalError

RETRY_SECONDS = 5
"""When a client that was turned away may try again."""


class Guest(Protocol):
    """A connection that may be turned away."""

    def head_is_late(self) -> None:
        """Close: the request head that it owes has not come in time."""

    def turn_away(self, error: RefusalError) -> None:
        """Answer with the refusal, and close."""


class Arrival:
    """One connection, from its beginning until it ends or becomes a link."""

    __slots__ = ("_address", "_arrivals", "_guest", "_has_begun", "due", "owes_head")

    def __init__(self, arrivals: Arrivals, guest: Guest, address: str | None) -> None:
        self.owes_head = False
        """Whether a request head has to come: the first one, or the rest of a later one."""
        self.due = 0.0
        """By when, on the loop's clock, the head has to come; valid while it is owed."""
        self._arrivals = arrivals
        self._guest: Guest | None = guest  # None once it has ended: else each would keep the other
        self._address = address
        self._has_begun = False  # whether a first request head has come

    def await_head(self, seconds: float) -> None:
        """Note that a request head has to come within ``seconds``; harmless if it is noted."""
        if not self.owes_head and self._guest is not None:
            self.owes_head = True
            self.due = self._arrivals.loop.time() + seconds
            self._arrivals.add_debtor(self, self._address)

    def head_came(self) -> bool:
        """Note that the request head is whole; return whether there is room for the connection, or turn it away."""
        self._pay()
        if self._has_begun:
            return True
        self._has_begun = True
        return self._arrivals.begin(self, self._address)

    def end(self) -> None:
        """Note that the connection is lost, or a link; harmless if it is noted."""
        self._pay()
        if self._has_begun and self._guest is not None:
            self._arrivals.end(self._address)
        self._guest = None

    def turn_away(self, error: RefusalError) -> None:
        """Make room for another."""
        self._pay()
        if self._guest is not None:
            self._guest.turn_away(error)

    def is_late(self) -> None:
        """Close the connection, whose time is over."""
        self._pay()
        if self._guest is not None:
            self._guest.head_is_late()

    def _pay(self) -> None:
        if self.owes_head:
            self.owes_head = False
            self._arrivals.remove_debtor(self, self._address)


class Arrivals:
    """The connections of one server that are not links, and their bounds.

    An address is None for peers that are not counted by their address, such as trusted proxies.
    """

    def __init__(self, context: LinkContext) -> None:
        self._context = context
        self.loop = context.loop
        self._timer: asyncio.TimerHandle | None = None  # None while nobody is watched
        self._debtors: dict[Arrival, None] = {}
        """Those that owe a request head, the oldest first."""
        self._debtors_of: dict[str, dict[Arrival, None]] = {}
        """The same of each address."""
        self._begun_of: dict[str, int] = {}
        """How many of each address have sent a request head, and are open."""

    def welcome(self, guest: Guest, address: Address | None) -> Arrival:
        """Return a new connection's arrival; None as an address is not counted."""
        return Arrival(self, guest, address and client_of(address[0]))

    def add_debtor(self, arrival: Arrival, address: str | None) -> None:
        """Add a connection that owes a request head; turn the oldest away if there are too many."""
        self._debtors[arrival] = None
        if self._timer is None:
            self._timer = self.loop.call_at(arrival.due, self._look)
        most = self._context.configured.handshakes
        if address is not None:
            of_address = self._debtors_of.setdefault(address, {})
            of_address[arrival] = None
            if len(of_address) > max(1, most // 2):
                self._context.meter.limited("handshakes")
                _make_room(of_address, 429, "Your address has too many unfinished requests.")
                return
        if len(self._debtors) > most:
            self._context.meter.limited("handshakes")
            _make_room(self._debtors, 503, "The server has too many unfinished requests.")
        elif self._context.sockets > self._context.most_sockets:
            self._context.meter.limited("open_files")
            _make_room(self._debtors, 503, "The server has too many connections.")

    def remove_debtor(self, arrival: Arrival, address: str | None) -> None:
        """Remove a connection that owes nothing any more."""
        del self._debtors[arrival]
        if address is not None:
            of_address = self._debtors_of[address]
            del of_address[arrival]
            if not of_address:
                del self._debtors_of[address]

    def begin(self, arrival: Arrival, address: str | None) -> bool:
        """Count a connection whose first request head has come; return whether there is room, or turn it away."""
        limits, count = self._context.configured, 0
        if address is not None:
            count = self._begun_of[address] = self._begun_of.get(address, 0) + 1
        if self._context.sockets - len(self._debtors) > limits.connections + limits.handshakes:
            self._context.meter.limited("connections")
            arrival.turn_away(_refusal(503, "The server has too many connections."))
            return False
        if limits.connections_per_address is not None and count > limits.connections_per_address:
            self._context.meter.limited("connections_per_address")
            arrival.turn_away(_refusal(429, "Your address has too many connections."))
            return False
        return True

    def end(self, address: str | None) -> None:
        """Forget a connection that was counted."""
        if address is not None:
            self._begun_of[address] -= 1
            if not self._begun_of[address]:
                del self._begun_of[address]

    def _look(self) -> None:
        """End those that owe a request head too long.

        One timer watches the oldest of them, so that a head that comes in time needs none. If a reload has shortened
        the time, the others wait for those that still have the longer one.
        """
        self._timer = None
        now = self.loop.time()
        while (oldest := next(iter(self._debtors), None)) is not None:
            if oldest.due > now:
                self._timer = self.loop.call_at(oldest.due, self._look)
                break
            oldest.is_late()


def _make_room(debtors: Iterable[Arrival], status: int, why: str) -> None:
    """Turn the oldest of them away."""
    next(iter(debtors)).turn_away(_refusal(status, why))


def _refusal(status: int, why: str) -> RefusalError:
    return RefusalError(why, status, [(b"retry-after", b"%d" % RETRY_SECONDS)])

"""Tickets: a credential that may be in a URL, because it is good once and for a minute.

A ticket is a secret and the offset in ``$tickets`` of what it is worth. So no worker remembers anything: it reads that
one message, and the log keeps it for no longer than a ticket lives. It holds a digest of the secret, never the secret.
A ticket is used by publishing a record whose idempotency key is that digest: of all workers and machines, one is told
that its record is new.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from app.access.storing import store
from app.core.channel import TICKETS, HistoryWindow
from app.core.errors import UnauthorisedError
from app.core.message import Page, Record
from app.core.ports import Publisher, Source

TICKET_SECONDS = 60
"""How long a ticket is good."""

WINDOW = HistoryWindow(size=1_000_000, ttl=TICKET_SECONDS)
"""What the log keeps of ``$tickets``."""

_TICKET = re.compile(r"([A-Za-z0-9_-]{43})\.([1-9][0-9]{0,14})", re.ASCII)

_PUBLISHER = "tickets"

_REFUSED = f"the ticket was used, is unknown, or is older than {TICKET_SECONDS} seconds: ask POST /ticket for another"


class Ticket(NamedTuple):
    """What ``POST /ticket`` answers."""

    ticket: str
    exp: float
    """When it expires if nobody uses it, in seconds since the Unix epoch."""


class Tickets:
    """Issues tickets, and takes them back once."""

    def __init__(self, publisher: Publisher, source: Source, *, clock: Callable[[], float] = time.time) -> None:
        self._publisher = publisher
        self._source = source
        self._clock = clock

    async def issue(self, token: Mapping[str, Any], expires: float) -> Ticket:
        """Return a ticket for what is kept of a token, which is good until a time, in seconds since the Unix epoch.

        Raises what the backend raises.
        """
        secret = secrets.token_urlsafe(32)
        body = {"ticket": {"id": _digest(secret), "token": token, "exp": expires}}
        stored = await store(self._publisher, Record(TICKETS, json.dumps(body).encode()))
        return Ticket(f"{secret}.{stored.position.offset}", min(expires, self._clock() + TICKET_SECONDS))

    async def redeem(self, ticket: str) -> dict[str, Any]:
        """Return what a ticket was issued for, once.

        Raises :class:`UnauthorisedError`, and what the backend raises.
        """
        found = _TICKET.fullmatch(ticket)
        if found is None:
            raise UnauthorisedError(_REFUSED)
        id_, offset = _digest(found[1]), int(found[2])
        issued = _issued(await self._source.read(TICKETS, offset - 1, 1, WINDOW), offset)
        if not hmac.compare_digest(str(issued.get("id")), id_) or issued["exp"] <= self._clock():
            raise UnauthorisedError(_REFUSED)
        use = Record(TICKETS, json.dumps({"used": id_}).encode(), key=id_, publisher=_PUBLISHER)
        if (await store(self._publisher, use)).replayed:
            raise UnauthorisedError(_REFUSED)
        token: dict[str, Any] = issued["token"]
        return token


def _issued(page: Page, offset: int) -> dict[str, Any]:
    """Return what was issued at an offset; nothing where the log has no ticket there."""
    for message in page.messages:
        if message.offset == offset:
            issued: dict[str, Any] = json.loads(message.data).get("ticket", {})
            return issued
    return {}


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()

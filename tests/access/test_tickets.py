"""Tickets: good once, for a minute, on whichever worker they are used."""

import asyncio
import time

import pytest

from app.access.tickets import TICKET_SECONDS, Tickets
from app.bus.bus import Bus
from app.bus.memory import MemoryBackend
from app.core.channel import TICKETS, HistoryWindow
from app.core.errors import UnauthorisedError
from tests.access.conftest import Pair, keep

CLAIMS = {"sub": "auth0|65f", "exp": 1790000000, "subscribe": ["chat.7"], "name": "\ud800 é"}
ALL = HistoryWindow(size=1000, ttl=86400)


def later(seconds: float = 3600) -> float:
    return time.time() + seconds


async def test_a_ticket_is_good_once_on_any_worker(pair: Pair) -> None:
    """Ticket that one worker issued is redeemed by another for its claims, and then by nobody."""
    one, other = (Tickets(bus, bus) for bus in pair)
    ticket = (await one.issue(CLAIMS, later())).ticket
    assert await other.redeem(ticket) == CLAIMS
    for tickets in (one, other):
        with pytest.raises(UnauthorisedError, match="was used"):
            await tickets.redeem(ticket)


async def test_of_many_that_use_a_ticket_at_once_one_is_admitted(pair: Pair) -> None:
    """Ticket that is used many times at once, by several workers, admits one."""
    one, other = (Tickets(bus, bus) for bus in pair)
    ticket = (await one.issue(CLAIMS, later())).ticket
    uses = [tickets.redeem(ticket) for tickets in (one, other) * 10]
    outcomes = await asyncio.gather(*uses, return_exceptions=True)
    assert [outcome for outcome in outcomes if not isinstance(outcome, UnauthorisedError)] == [CLAIMS]


async def test_what_was_never_issued_is_refused(pair: Pair) -> None:
    """Ticket is refused with another secret, another number, the record of a use, and any other text."""
    tickets = Tickets(pair.one, pair.one)
    used, fresh = [(await tickets.issue(CLAIMS, later())).ticket for _ in range(2)]
    await tickets.redeem(used)
    secret, _, number = fresh.partition(".")
    wrong = [
        f"{used.partition('.')[0]}.{number}",
        f"{secret}.{int(number) - 1}",
        f"{secret}.{int(number) + 1}",
        f"{secret}.{int(number) + 2}",
        f"{secret}.999999999999999",
        secret,
        f"{secret}.",
        f"{secret}.0",
        f"{fresh}\n",
        f"{secret[:-1]}.{number}",
        "",
        "é",
    ]
    for text in wrong:
        with pytest.raises(UnauthorisedError):
            await tickets.redeem(text)
    assert await tickets.redeem(fresh) == CLAIMS


async def test_the_log_never_has_the_ticket_itself(pair: Pair) -> None:
    """Log has a digest of the secret and nothing that a ticket could be made of."""
    tickets = Tickets(pair.one, pair.one)
    ticket = (await tickets.issue(CLAIMS, later())).ticket
    await tickets.redeem(ticket)
    page = await pair.one.read(TICKETS, 0, 10, ALL)
    secret = ticket.partition(".")[0].encode()
    assert len(page.messages) == 2
    assert all(secret not in message.data for message in page.messages)


async def test_no_ticket_comes_twice(pair: Pair) -> None:
    """Tickets are all different, and of 256 random bits."""
    tickets = Tickets(pair.one, pair.one)
    issued = [(await tickets.issue(CLAIMS, later())).ticket for _ in range(50)]
    assert len({ticket.partition(".")[0] for ticket in issued}) == 50
    assert {len(ticket.partition(".")[0]) for ticket in issued} == {43}


async def test_a_ticket_says_until_when_it_is_good(pair: Pair) -> None:
    """Ticket expires after a minute, or with the token that it was issued for, if that is sooner."""
    tickets = Tickets(pair.one, pair.one)
    assert (await tickets.issue(CLAIMS, later())).exp == pytest.approx(later(TICKET_SECONDS), abs=5)
    sooner = later(10)
    assert (await tickets.issue(CLAIMS, sooner)).exp == sooner
    expired = await tickets.issue(CLAIMS, later(-1))
    with pytest.raises(UnauthorisedError):
        await tickets.redeem(expired.ticket)


async def test_a_ticket_that_is_older_than_a_minute_is_refused() -> None:
    """Ticket is good for 60 seconds by the clock of the log, and not for longer."""
    age = 0.0
    bus = Bus(MemoryBackend(keep, monotonic=lambda: 1000 + age))
    tickets = Tickets(bus, bus)
    async with bus.running():
        one, other = [(await tickets.issue(CLAIMS, later())).ticket for _ in range(2)]
        age = TICKET_SECONDS - 1
        assert await tickets.redeem(one) == CLAIMS
        age = TICKET_SECONDS + 1
        with pytest.raises(UnauthorisedError, match="older than 60 seconds"):
            await tickets.redeem(other)

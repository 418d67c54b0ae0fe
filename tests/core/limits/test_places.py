"""The places for connections, of a worker and of each address; and when refusals are too many."""

from __future__ import annotations

import pytest

from app.core.errors import OverloadedError, TooManyError
from app.core.limits.insistence import MOST_REFUSALS, PAUSE_SECONDS, Refusals
from app.core.limits.limiter import Limiter
from app.core.ports import Limits, client_of


def test_a_worker_has_so_many_places() -> None:
    """Worker refuses one more connection than it may have, says when to try again, and takes it when one has ended."""
    places = Limiter(Limits(connections=2)).places
    places.take("192.0.2.1")
    places.take(None)
    with pytest.raises(OverloadedError, match=r"limits\.connections\)") as refused:
        places.take("192.0.2.2")
    assert refused.value.retry_after == 5
    places.give_back(None)
    places.take("192.0.2.2")


def test_an_address_has_so_many_places() -> None:
    """Address is refused one more connection than it may have, and another is not; a /64 of IPv6 is one address."""
    limiter = Limiter(Limits(connections_per_address=1))
    limiter.places.take("192.0.2.1")
    with pytest.raises(TooManyError, match=r"limits\.connections_per_address\)") as refused:
        limiter.places.take("::ffff:192.0.2.1")
    assert refused.value.retry_after == 5
    limiter.places.take("192.0.2.2")
    limiter.places.take("2001:db8::1")
    limiter.places.take("2001:db8:0:1::1")
    with pytest.raises(TooManyError):
        limiter.places.take("2001:db8::ffff:0:1")
    limiter.apply(Limits())
    limiter.places.take("2001:db8::ffff:0:1")


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix:", "unix:"),
        ("x" * 100_000, "x" * 64),
        ("", ""),
        (None, ""),
    ],
)
def test_a_client_is_an_address_or_a_network(address: str | None, client: str) -> None:
    """Client is an IPv4 address however it is written, the /64 of an IPv6 address, or a text that is cut."""
    assert client_of(address) == client


def test_refusals_are_too_many_without_a_pause() -> None:
    """Connection is closed at one refusal more than it may have without a pause, and a pause begins anew."""
    now = 0.0
    refusals = Refusals(lambda: now)
    for _ in range(3):
        now += PAUSE_SECONDS + 1
        assert not any(refusals.go_on() for _ in range(MOST_REFUSALS))
    now += PAUSE_SECONDS
    assert refusals.go_on()

"""How often one publisher, and all of them, may publish to a channel."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.core.channel import Channel
from app.core.errors import RateLimitedError
from app.core.limits.rate_limits import RateLimits
from app.core.limits.rates import SECOND, Rate, RateLimit
from app.core.ports import Meter
from app.core.rights.policy import ANONYMOUS, Identity

ROOMS = Channel("chat.{room}", rate_limit=RateLimit(Rate(10, 1, 10)))
NEWS = Channel("news", rate_limit=RateLimit(Rate(10, 1, 20), Rate(30, 1, 30)))
ANN, BOB = Identity(name="ann"), Identity(name="bob")


class Noting(Meter):
    """Counts who met a limit."""

    def __init__(self) -> None:
        self.limits: list[str] = []

    def limited(self, limit: str) -> None:
        self.limits.append(limit)


class Publishers:
    """Rate limits under a clock of their own."""

    def __init__(self, most_buckets: int = 1000) -> None:
        self.now = 10**12
        self.meter = Noting()  # type: ignore[abstract] # it is asked nothing else
        self.limits = RateLimits(self.meter, lambda: self.now, most_buckets)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += int(seconds * SECOND)

    def publish(
        self,
        times: int,
        identity: Identity = ANN,
        *,
        channel: Channel = ROOMS,
        name: str = "",
        address: str = "1.2.3.4",
    ) -> int:
        """Return how many of so many messages are taken."""
        taken = 0
        for _ in range(times):
            try:
                self.limits.take(channel, name or channel.name, identity.name, address)
            except RateLimitedError:
                continue
            taken += 1
        return taken


@pytest.fixture
def publishers() -> Publishers:
    """Make them."""
    return Publishers()


def test_a_publisher_may_publish_at_once_what_the_rate_names(publishers: Publishers) -> None:
    """Publisher may send as many messages at once as its rate names, and then one for each part of the period."""
    assert publishers.publish(100) == 10
    publishers.wait(0.1)
    assert publishers.publish(100) == 1
    publishers.wait(3600)
    assert publishers.publish(100) == 10


def test_exactly_the_rate_is_always_taken(publishers: Publishers) -> None:
    """Publisher that keeps exactly to its rate is never refused."""
    for _ in range(1000):
        publishers.wait(0.1)
        assert publishers.publish(1) == 1


def test_a_refusal_says_when_and_counts_nothing(publishers: Publishers) -> None:
    """Refusal names the rate and the whole seconds to wait, rounded up, and is not counted as a message."""
    slow = replace(ROOMS, rate_limit=RateLimit(Rate(2, 60, 2)))
    assert publishers.publish(2, channel=slow) == 2
    publishers.wait(0.5)
    for _ in range(5):
        with pytest.raises(RateLimitedError, match=r"'chat.a' accepts at most 2/m from one publisher .* in 30 s") as no:
            publishers.limits.take(slow, "chat.a", ANN.name, None)
        assert no.value.retry_after == 30
    publishers.wait(29.5)
    assert publishers.publish(2, channel=slow) == 1
    assert publishers.meter.limits == ["rate_limit"] * 6


def test_a_burst_is_what_one_publisher_may_send_at_once(publishers: Publishers) -> None:
    """Publisher may send as many messages at once as its burst says, and all of them together what theirs names."""
    assert publishers.publish(100, ANN, channel=NEWS) == 20
    assert publishers.publish(100, BOB, channel=NEWS) == 10
    publishers.wait(0.5)
    assert publishers.publish(100, ANN, channel=NEWS) == 5
    assert publishers.publish(100, BOB, channel=NEWS) == 10


def test_a_family_is_one_channel_for_a_publisher_and_many_for_all(publishers: Publishers) -> None:
    """Publisher gains nothing by other names of a family; the limit of all is each channel's own."""
    assert sum(publishers.publish(5, name=f"chat.{room}") for room in range(10)) == 10
    each = replace(ROOMS, rate_limit=RateLimit(None, Rate(5, 1, 5)))
    assert [publishers.publish(9, name=f"chat.{room}", channel=each) for room in range(3)] == [5, 5, 5]


def test_publishers_are_told_apart_by_name_and_by_address(publishers: Publishers) -> None:
    """Publisher is its name wherever it is, and without a name its address; the two are never taken for each other."""
    assert publishers.publish(9, ANN, address="1.1.1.1") == 9
    assert publishers.publish(9, ANN, address="2.2.2.2") == 1
    assert publishers.publish(9, BOB) == 9
    assert publishers.publish(9, ANONYMOUS, address="1.1.1.1") == 9
    assert publishers.publish(9, Identity(name="1.1.1.1")) == 9
    assert publishers.publish(9, ANONYMOUS, address="2.2.2.2") == 9


def test_joined_names_are_nobody_elses(publishers: Publishers) -> None:
    """Publisher and channel are kept apart: ``a_b`` on ``c`` is not ``a`` on ``b_c`` (CVE-2026-39972)."""
    for channel, name in (("c", "a_b"), ("b_c", "a"), ("a_b_c", ""), ("a", "address")):
        limited = Channel(channel, rate_limit=RateLimit(Rate(1, 1, 1), Rate(1, 1, 1)))
        assert publishers.publish(2, Identity(name=name), channel=limited) == 1


def test_remembered_publishers_are_bounded() -> None:
    """Publishers that are remembered are never more than the bound, and the newest are kept."""
    limits = Publishers(most_buckets=50)
    for number in range(500):
        assert limits.publish(1, Identity(name=str(number))) == 1
    assert len(limits.limits) == 50
    assert limits.publish(100, Identity(name="499")) == 9


async def test_full_buckets_are_dropped(publishers: Publishers) -> None:
    """Forgetting drops the buckets that are full again, and no other."""
    publishers.publish(10, ANN)
    publishers.publish(1, BOB)
    publishers.wait(0.2)
    await publishers.limits.forget()
    assert len(publishers.limits) == 1
    assert publishers.publish(100, ANN) == 2
    publishers.wait(1.0)
    await publishers.limits.forget()
    assert len(publishers.limits) == 0


def test_another_rate_holds_at_once(publishers: Publishers) -> None:
    """Publisher that has used up a slow rate need not wait for it under a faster one."""
    hourly = replace(ROOMS, rate_limit=RateLimit(Rate(1, 3600, 1)))
    assert publishers.publish(2, channel=hourly) == 1
    assert publishers.publish(1) == 0
    publishers.wait(0.1)
    assert publishers.publish(2) == 1


def test_a_channel_without_a_limit_counts_nobody(publishers: Publishers) -> None:
    """Channel without a rate limit takes everything, and remembers nobody."""
    assert publishers.publish(1000, channel=Channel("free")) == 1000
    assert len(publishers.limits) == 0

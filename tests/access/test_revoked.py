"""What was taken back, in memory."""

import pytest
from structlog.testing import capture_logs

from app.access.entries import Revocation
from app.access.revoked import SLACK_SECONDS, Revoked

DAY = 86400.0
NOW = 1_790_000_000.0


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def revoked(clock: Clock) -> Revoked:
    return Revoked(lambda: DAY, clock=clock)


def forget(revoked: Revoked) -> None:
    while revoked.forget_expired():
        pass


def test_tokens_of_a_subject_that_were_issued_before_are_refused(revoked: Revoked) -> None:
    """Revocation of a subject refuses its tokens of before, and none of later or of others."""
    revoked.add(Revocation("42", NOW), NOW)
    assert revoked.has("42", None, NOW - 0.5)
    assert not revoked.has("42", None, NOW)
    assert not revoked.has("42", "9f", NOW + 1)
    assert not revoked.has("43", None, NOW - 1)
    assert not revoked.has(None, None, NOW - 1)


def test_a_token_that_does_not_say_when_it_was_issued_counts_as_issued_before(revoked: Revoked, clock: Clock) -> None:
    """Token without ``iat`` is refused for as long as one of before may live."""
    revoked.add(Revocation("42", NOW - 10 * DAY), NOW - 60)
    assert revoked.has("42", None, None)
    clock.now = NOW - 60 + DAY
    assert not revoked.has("42", None, None)


def test_a_token_is_refused_by_its_id(revoked: Revoked) -> None:
    """Revocation of an id refuses that token, whoever has it and whenever it was issued."""
    revoked.add(Revocation(jti="9f"), NOW)
    assert revoked.has("42", "9f", NOW + 1)
    assert revoked.has(None, "9f", None)
    assert not revoked.has("42", "a0", NOW - 1)


def test_the_latest_of_two_times_counts(revoked: Revoked) -> None:
    """Revocation with an earlier time gives back nothing that another has taken."""
    assert revoked.add(Revocation("42", NOW), NOW)
    assert not revoked.add(Revocation("42", NOW - 100), NOW)
    assert revoked.has("42", None, NOW - 1)
    assert revoked.add(Revocation("42", NOW + 1), NOW)
    assert revoked.has("42", None, NOW)


def test_a_revocation_is_forgotten_when_no_such_token_lives(revoked: Revoked, clock: Clock) -> None:
    """Revocation is kept for the lifetime of a token and an hour."""
    revoked.add(Revocation("42", NOW), NOW)
    revoked.add(Revocation(jti="9f"), NOW)
    clock.now = NOW + DAY + SLACK_SECONDS - 1
    forget(revoked)
    assert len(revoked) == 2
    clock.now += 2
    forget(revoked)
    assert len(revoked) == 0
    assert not revoked.add(Revocation("42", NOW), NOW)


def test_thousands_are_forgotten_and_the_rest_stays(revoked: Revoked, clock: Clock) -> None:
    """Revocations that have expired go, however many they are, and others stay in force."""
    for number in range(5000):
        revoked.add(Revocation(f"old {number}", NOW), NOW)
        revoked.add(Revocation(jti=f"old {number}"), NOW)
    clock.now = NOW + DAY
    revoked.add(Revocation("new", clock.now), clock.now)
    clock.now = NOW + DAY + SLACK_SECONDS + 1
    forget(revoked)
    assert len(revoked) == 1
    assert revoked.has("new", None, NOW)


def test_the_oldest_go_when_there_is_no_room(clock: Clock) -> None:
    """Revocations beyond the bound take the place of the oldest, and the log says so."""
    revoked = Revoked(lambda: DAY, clock=clock, most=3000)
    with capture_logs() as logs:
        for number in range(3001):
            revoked.add(Revocation(str(number), NOW), NOW)
    assert [line["event"] for line in logs] == ["revocations_dropped"]
    assert len(revoked) <= 3000
    assert not revoked.has("0", None, NOW - 1)
    assert revoked.has("3000", None, NOW - 1)

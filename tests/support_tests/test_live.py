"""The verdict where nothing is kept: a loss that was told is lawful, and one in silence is not."""

from __future__ import annotations

import pytest

from tests.support.live import LiveLedger
from tests.support.verdict import Log

NEWS = "news"


@pytest.fixture
def ledger() -> LiveLedger:
    """Publish one message after the other."""
    ledger = LiveLedger()
    for data in ("one", "two", "three", "four"):
        publish(ledger, data)
    return ledger


def publish(ledger: LiveLedger, data: str) -> None:
    ledger.doubt(NEWS, data)
    ledger.acknowledge(NEWS, None, data, 0)


def told(*what: str) -> Log:
    """Return what a subscriber was told: messages, ``gap``, and ``cut`` where it lost its connection and came back."""
    log = Log("somebody", NEWS)
    log.began("live:0", resumed=False)
    for one in what:
        if one == "gap":
            log.missed("live:0", "live:1", "dropped")
        elif one == "cut":
            log.cut()
            log.began("live:0", resumed=False)
        else:
            log.got(None, one)
    return log


@pytest.mark.parametrize(
    "what",
    [
        ("one", "two", "three", "four"),
        ("two", "three"),
        ("one", "gap", "four"),
        ("one", "cut", "gap", "three", "four"),
        ("gap",),
    ],
)
def test_what_is_whole_or_told_is_lawful(ledger: LiveLedger, what: tuple[str, ...]) -> None:
    """Subscriber that has everything, or was told of a gap where it has not, was told right."""
    assert ledger.faults([told(*what)]) == []


@pytest.mark.parametrize(
    ("what", "fault"),
    [
        (("one", "three"), "1 messages are missing without a gap: the first is 'two', between 'one' and 'three'"),
        (
            ("one", "gap", "two", "four"),
            "1 messages are missing without a gap: the first is 'three', between 'two' and 'four'",
        ),
        (("two", "one"), "'one' came after what was sent when it had been answered"),
        (("one", "one"), "'one' came 2 times, and was sent 1 times"),
        (("one", "five"), "nobody published 'five'"),
        (("one", "cut", "three"), "came back and got 'three' without a gap"),
    ],
)
def test_a_loss_in_silence_is_a_fault(ledger: LiveLedger, what: tuple[str, ...], fault: str) -> None:
    """Subscriber that misses a message, or has it doubled or too late, was told wrong."""
    assert ledger.faults([told(*what)]) == [f"somebody on news: {fault}"]


def test_a_message_that_was_sent_twice_may_come_twice(ledger: LiveLedger) -> None:
    """Message that its publisher sent again, because it was not answered, may come as often as it was sent."""
    ledger.doubt(NEWS, "five")
    publish(ledger, "five")
    assert ledger.faults([told("five", "five")]) == []
    assert ledger.faults([told("five", "five", "five")]) != []

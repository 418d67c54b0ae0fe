"""The verdict on subscribers' logs: what keeps the promises passes, and each way to break them is found."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.verdict import Ledger, Log


def ledger(count: int = 4) -> Ledger:
    """Return a ledger of ``count`` messages in each channel; ``short`` shows two of them."""
    kept = Ledger({"short": 2})
    for channel in ("long", "short"):
        for number in range(1, count + 1):
            kept.acknowledge(channel, f"e:{number}", f"{number}", 0)
    return kept


def log(channel: str = "long", *, begin: int = 0) -> Log:
    """Return the log of a subscriber that began at an offset."""
    began = Log("s", channel)
    began.began(f"e:{begin}", resumed=False)
    return began


def tell(told: Log, *offsets: int) -> Log:
    """Tell a subscriber some messages."""
    for offset in offsets:
        told.got(f"e:{offset}", f"{offset}")
    return told


def resumed(told: Log, at: int) -> Log:
    """Let a connection break, and the next one resume at an offset."""
    told.cut()
    told.began(f"e:{at}", resumed=True)
    return told


def with_gap(told: Log, after: int, following: int, reason: str = "expired") -> Log:
    """Tell a subscriber of a gap."""
    told.missed(f"e:{after}", f"e:{following}", reason)
    return told


def plain(*datas: str, cut_at: int | None = None) -> Log:
    """Return a plain socket's log, with its connection broken before one of the messages."""
    told = Log("p", "long", plain=True)
    for number, data in enumerate(datas):
        if number == cut_at:
            told.cut()
        told.got(None, data)
    return told


def unresumed() -> Log:
    """Return the log of one that came back, and was neither resumed nor told of a gap."""
    told = tell(log(), 1)
    told.cut()
    told.began("e:2", resumed=False)
    return tell(told, 3, 4)


@pytest.mark.parametrize(
    "kept",
    [
        tell(log(), 1, 2, 3, 4),
        tell(log(begin=3), 4),
        tell(resumed(tell(log(), 1, 2), 2), 3, 4),
        tell(with_gap(log("short"), 0, 3), 3, 4),
        plain("2", "3", "1", "2", cut_at=2),
    ],
)
def test_kept_promises_have_no_fault(kept: Log) -> None:
    """Verdict finds no fault in a log without a hole, one that was resumed, one with a gap, and a plain one."""
    assert ledger().faults([kept]) == []


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (tell(log(), 1, 3, 4), "e:3 ('3') came after e:1"),
        (tell(log(), 1, 2, 2, 3, 4), "e:2 ('2') came after e:2"),
        (tell(log(), 2, 1, 3, 4), "e:2 ('2') came after e:0"),
        (tell(log(), 1, 2, 3), "stands at 3, the head is 4"),
        (tell(resumed(tell(log(), 1, 2), 3), 4), "began at e:3 and not at e:2, without a gap"),
        (unresumed(), "without a gap"),
        (tell(with_gap(log(), 0, 3), 3, 4), "though everything is held"),
        (tell(with_gap(log("short"), 0, 4), 4), "leaves out what is held"),
        (tell(with_gap(log("short", begin=3), 3, 4), 4), "nothing is missing"),
        (tell(with_gap(log("short"), 1, 3), 3, 4), "came after e:0"),
        (plain("1", "3"), "'3', which is 3, came after 1"),
        (plain("1", "1"), "'1', which is 1, came after 1"),
        (plain("1", "no such"), "nobody published 'no such'"),
    ],
)
def test_broken_promises_are_named_each(broken: Log, said: str) -> None:
    """Verdict names a hole, a double, a wrong order, an end too early, a gap without need or with the wrong ends."""
    faults = ledger().faults([broken])
    assert any(said in fault for fault in faults), faults


def _other_data(told: Log) -> None:
    told.got("e:1", "other")


def _twice(told: Log) -> None:
    tell(told, 1, 2, 3, 4).got("e:5", "4")


@pytest.mark.parametrize(("tell_wrongly", "said"), [(_other_data, "elsewhere"), (_twice, "is stored at")])
def test_what_is_stored_wrongly_is_named(tell_wrongly: Callable[[Log], None], said: str) -> None:
    """Verdict names data that is not what was acknowledged, and a message that is stored twice."""
    told = log()
    tell_wrongly(told)
    assert any(said in fault for fault in ledger().faults([told]))


def test_what_is_in_doubt_may_be_there_once() -> None:
    """Verdict lets a message without an answer be there or not, but not twice."""
    for stored, count in ((0, 0), (1, 0), (2, 1)):
        kept = ledger(1)
        kept.doubt("long", "doubtful")
        told = tell(log(), 1)
        for number in range(stored):
            told.got(f"e:{2 + number}", "doubtful")
        assert len([fault for fault in kept.faults([told]) if "is stored at" in fault]) == count


def holed(*offsets: int | None) -> Ledger:
    """Return a ledger of what was acknowledged of a log that was read: None where it has no message."""
    kept = Ledger({})
    for offset, number in enumerate(offsets, 1):
        kept.doubt("long", f"{offset}")
        if number is not None:
            kept.acknowledge("long", f"e:{number}", f"{number}", 0)
    return kept


def test_an_offset_without_a_message_is_passed_over() -> None:
    """Verdict lets an offset be skipped where the log has no message, with positions or without, and nowhere else."""
    kept = holed(1, None, 3, 4)
    kept.read({"long": {1: "1", 2: None, 3: "3", 4: "4"}})
    assert kept.faults([tell(log(), 1, 3, 4), plain("1", "3", "4")]) == []
    assert kept.faults([tell(log(), 1, 4)]) == ["s on long: e:4 ('4') came after e:1"]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (tell(log(), 1, 3, 4), "e:3 ('3') came after e:1"),
        (plain("1", "3", "4"), "'3', which is 3, came after 1"),
    ],
)
def test_a_stored_message_that_nobody_was_told_is_named(told: Log, said: str) -> None:
    """Verdict names a message that nobody acknowledged and everybody was denied, though the log has it."""
    kept = holed(1, None, 3, 4)
    kept.read({"long": {1: "1", 2: "2", 3: "3", 4: "4"}})
    assert [fault for fault in kept.faults([told]) if said in fault]


def test_a_message_that_the_log_does_not_have_is_named() -> None:
    """Verdict names what a subscriber was told, or a publisher, where the log has no message or another one."""
    kept = holed(1, None, 3)
    kept.doubt("long", "other")
    kept.read({"long": {1: "1", 2: None, 3: "other"}})
    assert kept.faults([tell(log(), 1, 2, 3)]) == [
        "long: offset 3 is '3', and 'other' in the log",
        "long: offset 2 is '2', and None in the log",
    ]


def test_what_a_transaction_committed_is_to_be_somewhere() -> None:
    """Verdict names a committed message that nobody was told, and takes one at any place."""
    kept = ledger()
    kept.commit("long", "5", 0)
    assert kept.faults([tell(log(), 1, 2, 3, 4)]) == ["long: '5' is committed and nowhere"]
    assert kept.faults([tell(log(), 1, 2, 3, 4, 5)]) == []
    assert kept.counts() == (9, 0)

"""The verdict on subscribers of a log that was rewritten: who was told and has the present log passes, nobody else."""

from __future__ import annotations

import pytest

from tests.support.rewritten import faults
from tests.support.verdict import Got, Ledger, Log

OLD = {offset: f"old {offset}" for offset in range(1, 11)}
PRESENT = {offset: f"old {offset}" if offset <= 5 else f"new {offset}" for offset in range(1, 13)}


def ledger() -> Ledger:
    """Return the ledger of a channel whose log went back from 10 to 5, and then on to 12."""
    kept = Ledger({})
    for offset, data in OLD.items():
        if offset == 6:
            saved = kept.save()
        kept.doubt("a", data)
        kept.acknowledge("a", f"e1:{offset}", data, kept.life)
    with kept.rewriting(saved):
        kept.doubt("a", "new 6")
        kept.acknowledge("a", "e2:6", "new 6", kept.life)
    for offset in range(7, 13):
        kept.doubt("a", f"new {offset}")
        kept.acknowledge("a", f"e2:{offset}", f"new {offset}", kept.life)
    return kept


def old(last: int = 10, *, begin: int = 0, plain: bool = False) -> Log:
    """Return the log of a subscriber that was told the old messages up to ``last``, when the log was rewritten."""
    log = Log("s", "a", plain=plain)
    if not plain:
        log.began(f"e1:{begin}", resumed=False)
    for offset in range(begin + 1, last + 1):
        log.got(None if plain else f"e1:{offset}", OLD[offset])
    log.rewritten()
    return log


def gap(log: Log, following: int) -> Log:
    """Tell of a gap."""
    assert log.position is not None
    log.missed(log.position, f"e2:{following}", "epoch")
    return log


def new(log: Log, first: int = 6) -> Log:
    """Tell the new messages from ``first`` on."""
    for offset in range(first, 13):
        log.got(None if log.plain else f"e2:{offset}", PRESENT[offset])
    return log


def back(log: Log, at: int) -> Log:
    """Let a connection break, and the next one resume at an offset."""
    log.cut()
    log.began(f"e2:{at}", resumed=True)
    return log


@pytest.mark.parametrize(
    "kept",
    [
        new(gap(old(), 6)),
        new(gap(old(), 1), first=1),
        new(gap(old(begin=8), 6)),
        new(gap(gap(old(), 6), 6)),
        new(old(last=5)),
        new(back(old(last=4), at=4), first=5),
        new(old(plain=True)),
        new(old(last=3, plain=True), first=4),
    ],
)
def test_who_was_told_and_has_the_present_log_passes(kept: Log) -> None:
    """Verdict finds no fault where a gap took back what was lost, and where nothing of it had been told."""
    assert faults(ledger(), [kept], {"a": PRESENT}) == []


def untold() -> Log:
    """Return the log of one that is told a gap though nothing was lost."""
    log = Log("s", "a")
    log.began("e2:0", resumed=False)
    return new(gap(log, 1), first=1)


def elsewhere() -> Log:
    """Return the log of one that came back elsewhere than it was, and was told nothing."""
    return new(back(old(last=3), at=5))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (new(old(), first=11), "5 messages are not those of the log, 6 to 10: the first is 'old 6' and not 'new 6'"),
        (new(gap(old(), 8), first=8), "2 messages are not those of the log, 6 to 7"),
        (gap(old(), 6), "7 messages are missing, 6 to 12, of 12"),
        (new(gap(old(), 6), first=7), "e2:7 ('new 7') came after e2:5"),
        (new(old()), "e2:6 ('new 6') came after e1:10"),
        (untold(), "though nothing was lost"),
        (elsewhere(), "began at e2:5 and not at e1:3, without a gap"),
        (new(old(plain=True), first=7), "'new 7', which is 7, came after 5"),
        (new(new(old(plain=True))), "'new 6', which is 6, came after 12"),
    ],
)
def test_who_was_not_told_or_has_another_log_is_named(broken: Log, said: str) -> None:
    """Verdict names a rewrite in silence, a gap in the wrong place or without need, a hole and a double."""
    found = faults(ledger(), [broken], {"a": PRESENT})
    assert any(said in fault for fault in found), found


def test_each_life_of_a_log_has_offsets_without_a_message_of_its_own() -> None:
    """Verdict lets an offset be skipped where the life of the log that the next message is of has no message."""
    kept, present = ledger(), {offset: data for offset, data in PRESENT.items() if offset != 9}
    kept.acknowledged["a"].pop(9)
    kept.read({"a": {offset: data if offset != 8 else None for offset, data in OLD.items()}})
    kept.read({"a": {offset: present.get(offset) for offset in PRESENT}})
    reader = Log("s", "a")
    reader.began("e1:0", resumed=False)
    for offset in (1, 2, 3, 4, 5, 6, 7, 9, 10):
        reader.got(f"e1:{offset}", OLD[offset])
    reader.rewritten()
    reader = gap(reader, 6)
    for offset in (6, 7, 8, 10, 11, 12):
        reader.got(f"e2:{offset}", PRESENT[offset])
    assert faults(kept, [reader], {"a": present}) == []
    reader.told = [told for told in reader.told if not isinstance(told, Got) or told.data != "old 7"]
    assert faults(kept, [reader], {"a": present}) == ["s on a: e1:9 ('old 9') came after e1:6"]


def test_a_gap_may_begin_after_an_offset_without_a_message() -> None:
    """Verdict lets a gap come after offsets that hold no message: the server went past them, and told nobody."""
    kept = ledger()
    reader = old(last=9)
    reader.missed("e1:10", "e2:6", "epoch")
    new(reader)
    assert faults(kept, [reader], {"a": PRESENT}) == [f"s on a: {reader.told[11]} came after e1:9"]
    kept.read({"a": {offset: data if offset != 10 else None for offset, data in OLD.items()}})
    assert faults(kept, [reader], {"a": PRESENT}) == []


def test_a_history_that_leaves_out_a_message_is_named() -> None:
    """Verdict names offsets of which a history shows nothing, unless the log has no message there."""
    kept, shown = ledger(), {offset: data for offset, data in PRESENT.items() if offset != 9}
    kept.acknowledged["a"].pop(9)
    assert faults(kept, [], {"a": shown}) == ["a: the history leaves out 1 messages, 9"]


def test_what_was_stored_for_certain_is_still_there() -> None:
    """Verdict names what was saved and isn't there, what is there twice, and what nobody published."""
    present = PRESENT | {5: "old 4", 12: "no such"}
    found = faults(ledger(), [], {"a": present})
    assert found == [
        "a: 'old 4' is stored at [4, 5]",
        "a: nobody published 'no such'",
        "a: offset 5 is 'old 4', acknowledged was 'old 5'",
        "a: offset 12 is 'no such', acknowledged was 'new 12'",
    ]

"""Faults under load, on real processes: what ``make chaos`` does for longer, with fewer subscribers and seeds."""

from __future__ import annotations

import pytest

from tests.support.chaos import KINDS, LOSSES, Load, place, play, schedule

LOAD = Load(subscribers=100, seconds=8, rate=8, settling=30)


@pytest.mark.parametrize(("seed", "losses"), [(1, False), (2, True)])
def test_everything_breaks_and_nothing_is_lost_in_silence(*, seed: int, losses: bool) -> None:
    """Subscribers of every form get each message of the log once and in order, while every kind of fault strikes.

    Each that holds a connection open loses it at least once, and all are at the end in the end.
    """
    with place() as it:
        played = play(it, seed, LOAD, losses=losses)
        if played.wrong:
            pytest.fail(f"{played.line}\n{played.report}", pytrace=False)
        assert played.tally.acknowledged > 0
        assert losses or played.tally.resumes >= LOAD.subscribers // 2
        assert (played.tally.gaps > 0) is losses


@pytest.mark.parametrize("seed", range(1, 21))
def test_a_schedule_has_every_kind_of_fault_and_is_the_seeds_own(seed: int) -> None:
    """Schedule has each kind of fault within its time, in order, the same for a seed and another for the next."""
    faults = schedule(seed, 15)
    assert {fault.kind for fault in faults} == set(KINDS)
    assert {fault.kind for fault in schedule(seed, 15, losses=True)} == {*KINDS, *LOSSES}
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert all(0 <= fault.at <= 15 for fault in faults)
    assert faults == schedule(seed, 15) != schedule(seed + 1, 15)

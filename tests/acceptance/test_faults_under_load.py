"""Faults under load, on real processes: what ``make chaos`` does for longer, with fewer subscribers and seeds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.chaos import KINDS, Load, place, play, schedule
from tests.support.postgres import PostgresServer

LOAD = Load(subscribers=200, seconds=8, rate=8, settling=15)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as postgres:
        yield postgres


@pytest.mark.parametrize("seed", [1, 2])
def test_everything_breaks_and_nothing_is_lost(postgres: PostgresServer, seed: int) -> None:
    """Subscribers of every form get each message once and in order, while each kind of fault strikes under load."""
    with place(postgres) as it:
        played = play(it, seed, LOAD)
        if played.wrong:
            pytest.fail(f"{played.line}\n{played.report}", pytrace=False)
        assert played.tally.acknowledged > 0
        assert played.tally.resumes >= LOAD.subscribers // 2
        assert played.tally.gaps == 0


@pytest.mark.parametrize("seed", range(1, 21))
def test_a_schedule_has_every_kind_of_fault_and_is_the_seeds_own(seed: int) -> None:
    """Schedule has each kind of fault within its time, in order, the same for a seed and another for the next."""
    faults = schedule(seed, 15)
    assert {fault.kind for fault in faults} == set(KINDS)
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert all(0 <= fault.at <= 15 for fault in faults)
    assert faults == schedule(seed, 15) != schedule(seed + 1, 15)

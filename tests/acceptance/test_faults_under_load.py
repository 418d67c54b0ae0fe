"""Faults under load, on real processes: what ``make chaos`` does for longer, with fewer subscribers and seeds."""

from __future__ import annotations

import asyncio

import pytest

from app.core.engines import ENGINES
from tests.support.chaos import Load, faults_of, place, play, schedule
from tests.support.steady import KILLED, SteadyRun
from tests.support.worlds import WORLDS
from tests.support.worlds.postgres import PostgresWorld
from tests.support.worlds.world import World

OTHERS = [
    world for world in WORLDS.values() if world.name in ENGINES and world.networked and world is not PostgresWorld
]
"""PostgreSQL has enough of its own: tests/bus/postgres/test_load.py and test_broken_networks.py."""

LOAD = Load(subscribers=100, seconds=8, rate=8, settling=30)


@pytest.mark.parametrize(("seed", "losses"), [(1, False), (2, True)])
def test_everything_breaks_and_nothing_is_lost_in_silence(*, seed: int, losses: bool) -> None:
    """Subscribers of every form get each message of the log once and in order, while every kind of fault strikes.

    Each that holds a connection open loses it at least once, and all are at the end in the end.
    """
    with place(PostgresWorld) as it:
        played = play(it, seed, LOAD, losses=losses)
        if played.wrong:
            pytest.fail(f"{played.line}\n{played.report}", pytrace=False)
        assert played.tally.acknowledged > 0
        assert losses or played.tally.resumes >= LOAD.subscribers // 2
        assert (played.tally.gaps > 0) is losses


@pytest.mark.parametrize("world", OTHERS, ids=lambda world: world.name)
def test_a_thousand_messages_a_second_come_through_killed_connections_and_restarts(world: type[World]) -> None:
    """Messages that were acknowledged are neither lost, doubled nor reordered, or a gap is told where nothing is kept.

    Meanwhile at least fifty connections to the engine are killed, and it restarts twice if it keeps its data. A file
    has test_sqlite_under_load.py.
    """
    with place(world) as it:
        result = asyncio.run(SteadyRun(it).run())
        if result.wrong:
            pytest.fail(result.report, pytrace=False)
        assert result.killed >= KILLED
        assert result.tally.acknowledged > 0
        assert (result.tally.gaps > 0) is not world.history


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
@pytest.mark.parametrize("seed", range(1, 6))
def test_a_schedule_has_every_kind_of_fault_and_is_the_seeds_own(seed: int, world: type[World]) -> None:
    """Schedule has each kind of fault within its time, in order, the same for a seed and another for the next."""
    faults = schedule(seed, 15, world)
    assert {fault.kind for fault in faults} == set(faults_of(world))
    assert {fault.kind for fault in schedule(seed, 15, world, losses=True)} == {*faults_of(world), *world.losses}
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert all(0 <= fault.at <= 15 for fault in faults)
    assert faults == schedule(seed, 15, world) != schedule(seed + 1, 15, world)

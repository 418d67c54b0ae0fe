"""A seeded part of the fuzz that ``python -m tests.fuzz`` runs for longer."""

from __future__ import annotations

import pytest

from tests.support.fuzz.client import WrongError
from tests.support.fuzz.run import CHANNELS, Run, fuzz
from tests.support.fuzz.scripts import script
from tests.support.server import Server

SEED = 1
FRAMES = 60_000


@pytest.mark.timeout(300)
def test_no_frame_hangs_crashes_or_grows_the_server() -> None:
    """Every client of the fuzz is answered or closed, and others are served meanwhile and afterwards."""
    with Server(channels=CHANNELS) as server:
        try:
            run = fuzz(server, SEED, FRAMES)
        except WrongError as error:
            pytest.fail(str(error), pytrace=False)
    assert run.frames >= FRAMES
    assert {1002, 1003, 1007, 1009, 4400, 4403} <= run.codes.keys()


@pytest.mark.parametrize("number", range(20))
def test_a_connection_of_the_fuzz_can_be_played_again(number: int) -> None:
    """Script is the same for the same seed and number, and another for the next."""
    assert script(SEED, number) == script(SEED, number) != script(SEED, number + 1)


def test_a_run_tells_its_seed() -> None:
    """Report of a run says by what it can be repeated."""
    assert str(Run(seed=17)).startswith("seed 17: ")

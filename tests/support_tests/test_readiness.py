"""The verdict on readiness: who says for long what isn't so is named, and nobody else."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.support.publishers import Outcome
from tests.support.readiness import Sample, faults


def pushes(ok: str, *, seconds: float = 0.1) -> list[Outcome]:
    """Return an outcome for each second: ``+`` one that worked, ``-`` one that failed, blank none."""
    return [Outcome(at, seconds, kind == "+") for at, kind in enumerate(ok) if kind != " "]


def said(statuses: Iterable[str]) -> list[Sample]:
    """Return a sample for each second: ``+`` ready, ``-`` not ready, blank no answer."""
    known = {"+": 200, "-": 503}
    return [Sample(at + 0.1, known.get(kind), "some reason") for at, kind in enumerate(statuses)]


@pytest.mark.parametrize(
    ("outcomes", "statuses"),
    [
        ("++++----++++++", "+++++---++++++"),
        ("++++----------", "++++++++------"),  # late, but in time
        ("---------+++++", "--------------"),
        ("-+-+-+-+-+-+-+", "++++++++++++++"),  # one worker of two
        ("-+-+-+-+-+-+-+", "--------------"),
        ("+            +", "+------------+"),  # nobody knows
        ("--------------", "              "),  # nobody answers
    ],
)
def test_what_is_said_in_time_passes(outcomes: str, statuses: str) -> None:
    """Verdict finds no fault where readiness follows within its seconds, or where nobody knows whether pushes work."""
    assert faults(pushes(outcomes), said(statuses)) == []


@pytest.mark.parametrize(
    ("outcomes", "statuses", "wrong"),
    [
        ("++----------", "++++++++++++", "200 for 8.0 s while pushes failed"),
        ("--++++++++++", "------------", "503 for 8.0 s while pushes worked (some reason)"),
        ("+-------+---", "++++++++++++", "200 for 5.0 s while pushes failed"),
    ],
)
def test_what_is_not_so_for_long_is_named(outcomes: str, statuses: str, wrong: str) -> None:
    """Verdict names how long a server was ready though pushes failed, or not ready though they worked."""
    (found,) = faults(pushes(outcomes), said(statuses), patience=4.5)
    assert wrong in found


def test_pushes_that_take_long_are_no_sign_that_they_work() -> None:
    """Verdict does not take a push that worked after seconds for a reason to be ready before."""
    assert faults(pushes("++++++++++", seconds=4), said("----------")) == []

"""The bound over unfinished messages."""

from __future__ import annotations

from app.core.limits.intake import SMALL, BoundedIntake


def test_large_messages_leave_the_reserve_to_small_ones() -> None:
    """Message of more than SMALL bytes finds no room where only the reserve is left; a small one does."""
    intake = BoundedIntake(8 * SMALL)
    assert intake.grow(0, 6 * SMALL)
    assert not intake.grow(6 * SMALL, 1)
    assert intake.grow(0, SMALL)
    assert intake.grow(0, SMALL)
    assert not intake.grow(0, 1)


def test_what_is_refused_is_not_counted() -> None:
    """Message that finds no room leaves the count as it was, and what is released can be taken again."""
    intake = BoundedIntake(SMALL)
    assert not intake.grow(0, SMALL + 1)
    assert intake.held == 0
    assert intake.grow(0, SMALL)
    intake.release(SMALL)
    assert intake.grow(0, SMALL)

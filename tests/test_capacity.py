"""The page on capacity: its tables are those that follow from the inputs."""

from __future__ import annotations

from benchmarks.capacity import PAGE, calculated


def test_the_page_on_capacity_has_the_tables_that_follow_from_its_inputs() -> None:
    """Page shows what benchmarks/capacity.py calculates; run ``python -m benchmarks.capacity`` to write it again."""
    page = PAGE.read_text(encoding="utf-8")
    assert page == calculated(page)

"""When a clock is believed."""

from types import SimpleNamespace

import pytest

from app.bus import clock as module
from app.bus.clock import Clock


def test_a_clock_is_believed_when_it_goes_on_or_has_lasted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clock is not believed for a minute after it has jumped, or where it differs from ours at first."""
    here = 1000.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: here, time=lambda: here + 5000))
    clock, strange = Clock(), Clock()
    assert clock.believes(here + 5001)
    assert not strange.believes(here)
    year = 31_536_000
    assert not clock.believes(here + 5000 + year)
    here += 10
    assert not clock.believes(here + 5000)
    here += 59
    assert not clock.believes(here + 5000)
    assert strange.believes(here)
    here += 1
    assert clock.believes(here + 5000)

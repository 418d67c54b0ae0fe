"""Two workers on one log: in memory they are one process, on PostgreSQL two."""

from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from app.access import windows
from app.bus.bus import Bus
from app.bus.memory import MemoryBackend
from app.core.channel import HistoryWindow
from tests.support.readers import workers

LIFETIME = 3600.0
"""The longest lifetime of a token, in seconds."""


class Pair(NamedTuple):
    """Two workers."""

    one: Bus
    other: Bus


def keep(channel: str) -> HistoryWindow:
    return windows.internal(channel, LIFETIME) or HistoryWindow()


@pytest.fixture(params=["memory", "postgres"])
def url(request: pytest.FixtureRequest) -> str | None:
    """Return the address of a database; None for a log in memory."""
    return request.getfixturevalue("database_url") if request.param == "postgres" else None


@pytest.fixture
async def pair(url: str | None) -> AsyncIterator[Pair]:
    if url is None:
        bus = Bus(MemoryBackend(keep))
        async with bus.running():
            yield Pair(bus, bus)
        return
    async with workers(url, 2) as (one, other):
        yield Pair(one.bus, other.bus)

"""Thousands of subscribers that come to many channels at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from app.bus.sqlite.log_file import LogFile
from app.core.message import Record
from tests.bus.sqlite.conftest import Run
from tests.support.readers import ALL


async def test_pages_that_are_asked_for_at_once_are_read_in_few_snapshots(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads that wait go into one snapshot: nothing queues for the thread, so nothing is read for who gave up."""
    counted = Counter[str]()
    reads = LogFile.reads

    def counting(file: LogFile, function: Callable[..., Any]) -> asyncio.Future[Any]:
        counted["snapshots"] += 1
        return reads(file, function)

    names = [f"c{number}" for number in range(400)]
    async with run() as it:
        await it.bus.publish([Record(name, b"1") for name in names])
        monkeypatch.setattr(LogFile, "reads", counting)
        pages = await asyncio.gather(*(it.bus.read(name, 0, 10, ALL) for name in names))
    assert [len(page.messages) for page in pages] == [1] * len(names)
    assert counted["snapshots"] < len(names) / 4

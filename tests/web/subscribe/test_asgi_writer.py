"""Connections over plain ASGI: the task that sends what was written."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.core.ports import Heartbeat
from app.web.subscribe.asgi_writer import AsgiWriter


async def test_a_task_that_is_cancelled_while_bytes_come_ends() -> None:
    """Writer's task ends when it is cancelled, also in the turn in which it learns of new bytes."""

    async def emit(_: bytes) -> None: ...

    peer: Any = None  # it is told of nothing here
    writer = AsgiWriter(emit).hand_over(peer, Heartbeat(b"", 30))
    sending = asyncio.create_task(writer.run())
    for turns in range(4):  # in one of these turns Python 3.11's wait_for would swallow it
        await asyncio.sleep(0)
        writer.write(b"x")
        for _ in range(turns):
            await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(sending, 5)
        sending = asyncio.create_task(writer.run())
    sending.cancel()

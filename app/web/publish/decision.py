"""The answer to a push, as soon as it is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any

from app.core.ports import Reply


class Decision:
    """A future of a :class:`~app.core.ports.Reply`, which depends on another future.

    A future of asyncio would be done one turn of the event loop later, which costs a tenth of a push's time.
    """

    __slots__ = ("_pending", "_reply")

    def __init__(self, pending: asyncio.Future[Any], reply: Callable[[asyncio.Future[Any]], Reply]) -> None:
        """``reply`` makes the answer from ``pending`` when that is done; it never raises."""
        self._pending = pending
        self._reply = reply

    @classmethod
    def of(cls, reply: Reply) -> Decision:
        """Return a decision that is already known."""
        pending = asyncio.get_running_loop().create_future()
        pending.set_result(reply)
        return cls(pending, asyncio.Future.result)

    def add_done_callback(self, callback: Callable[[Reply], None]) -> None:
        """Call ``callback`` with the answer in a later turn of the event loop, even if the answer is already known."""
        self._pending.add_done_callback(lambda pending: callback(self._reply(pending)))

    def __await__(self) -> Generator[Any, None, Reply]:
        """Wait for the answer."""
        with suppress(Exception):  # self._reply handles it
            yield from self._pending
        return self._reply(self._pending)

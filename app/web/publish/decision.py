"""The answer to a push, as soon as it is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any

from app.core.ports import Reply


class Decision:
    """A future of a :class:`~app.core.ports.Reply`, over the future of what it depends on.

    One of asyncio's own would be answered a turn of the event loop later, which takes a tenth of a push's time.
    """

    __slots__ = ("_pending", "_reply")

    def __init__(self, pending: asyncio.Future[Any], reply: Callable[[asyncio.Future[Any]], Reply]) -> None:
        """``reply`` returns the answer, and never raises, once ``pending`` is done."""
        self._pending = pending
        self._reply = reply

    @classmethod
    def of(cls, reply: Reply) -> Decision:
        """Return one that is known."""
        pending = asyncio.get_running_loop().create_future()
        pending.set_result(reply)
        return cls(pending, asyncio.Future.result)

    def add_done_callback(self, callback: Callable[[Reply], None]) -> None:
        """Call back with the answer: in a later turn of the event loop, also if it is known already."""
        self._pending.add_done_callback(lambda pending: callback(self._reply(pending)))

    def __await__(self) -> Generator[Any, None, Reply]:
        """Wait for the answer."""
        with suppress(Exception):  # which is the reply's to judge
            yield from self._pending
        return self._reply(self._pending)

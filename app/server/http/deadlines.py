"""How long the peer of an HTTP connection may take: to send a request, and to read an answer.

Two times are kept, by which the peer has to have read and to have sent what is waited for. One timer watches the nearer
of them: it fires then or earlier, so that a time that moves away does not touch it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import NamedTuple


class Times(NamedTuple):
    """What a peer is given, in seconds."""

    header: float = 10.0
    """From connecting, or from a later request's first byte, to the head's end."""

    body: float = 30.0
    """Between two pieces of a body."""

    whole: float = 60.0
    """For a body to come, or an answer to be read, as a whole, beside the time for its size."""

    linger: float = 5.0
    """For a body to end that goes on after its request was answered."""

    slowest: int = 16 * 1024
    """Bytes a second: whoever is as fast as this has all the time for a body's or an answer's size."""

    def for_size(self, size: int) -> float:
        """Return the seconds that so many bytes may take."""
        return self.whole + size / self.slowest


class Patience:
    """Calls ``late`` when the peer has not read (True) or not sent (False) in time.

    ``excuse`` is asked first about a peer that has not sent: it returns the seconds that are given in addition, 0 for
    none. Times are those of the loop's clock.
    """

    __slots__ = (
        "_began", "_excuse", "_fires_at", "_late", "_loop", "_read_by", "_sent_by", "_size", "_timer", "_times",
        "_waiting",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        times: Times,
        late: Callable[[bool], None],
        excuse: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._times = times
        self._late = late
        self._excuse = excuse
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = 0.0  # valid while there is a timer
        self._sent_by = inf
        self._read_by = inf
        self._began = 0.0  # when the body began, or was excused; valid while it comes, as its size
        self._size = 0
        self._waiting = inf  # since when the answer has waited for its reader, with pauses

    def stop(self) -> None:
        """Wait for nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # For what the peer sends.

    def expect(self, seconds: float) -> None:
        """Wait so long for something."""
        self._sent_by = due = self._loop.time() + seconds
        if self._timer is None or self._fires_at > due:
            self._watch()

    def expect_nothing(self) -> None:
        """Wait for nothing of the peer's."""
        self._sent_by = inf

    def begin_body(self) -> None:
        """Let the time of a body begin."""
        self._began, self._size = self._loop.time(), 0

    def expect_body(self) -> None:
        """Wait for the next piece of the body."""
        whole = self._began + self._times.for_size(self._size)
        self._sent_by = min(self._loop.time() + self._times.body, whole)
        self._watch()

    def moved(self, size: int) -> None:
        """Note that so many bytes of the body have come."""
        self._size += size

    # For what the peer reads.

    def full(self, size: int) -> None:
        """Wait for the peer to read: of an answer that has ``size`` bytes so far more is buffered than should be."""
        self._waiting = min(self._waiting, self._loop.time())
        self._read_by = self._waiting + self._times.for_size(size)
        self._watch()

    def drained(self) -> None:
        """Note that the peer has read on."""
        self._read_by = inf

    def answered(self, seconds: float) -> None:
        """Note that the answer is complete, for another one has a time of its own, and wait so long for a request."""
        self._waiting = inf
        self.expect(seconds)

    def close(self, buffered: int) -> None:
        """Wait for the peer to read the rest, after which the connection ends."""
        self._read_by = self._loop.time() + self._times.for_size(buffered)
        self._watch()

    def _watch(self) -> None:
        due = min(self._sent_by, self._read_by)
        if self._timer is not None and self._fires_at > due:
            self.stop()
        if self._timer is None and due < inf:
            self._fires_at = due
            self._timer = self._loop.call_at(due, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        if now >= self._read_by:
            self._late(True)  # noqa: FBT003 — its one argument
        elif now < self._sent_by:
            self._watch()
        elif more := self._excuse():
            self._began = now
            self._sent_by = now + more
            self._watch()
        else:
            self._late(False)  # noqa: FBT003 — as above

"""How long the peer of an HTTP connection may take to send a request, and to read an answer."""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from math import inf
from typing import NamedTuple, Protocol

from app.core.ports import Limits


class Times(NamedTuple):
    """What a peer is given, in seconds."""

    header: float = 10.0
    """From connecting, or from a later request's first byte, to the end of the request head."""

    body: float = 30.0
    """Between two pieces of a body."""

    whole: float = 60.0
    """For a whole body to come, without the time for its size."""

    answer: float = 60.0
    """For a whole answer to be read, without the time for its size."""

    linger: float = 5.0
    """For a body to end that goes on after its request was answered."""

    slowest: int = 16 * 1024
    """Bytes a second: a peer that is as fast as this has all the time for the size of a body or an answer."""

    def for_body(self, size: int) -> float:
        """Return the seconds that a body of ``size`` bytes may take."""
        return self.whole + size / self.slowest

    def for_answer(self, size: int) -> float:
        """Return the seconds that an answer of ``size`` bytes may take."""
        return self.answer + size / self.slowest

    def under(self, limits: Limits) -> Times:
        """Return these times with those that the application limits."""
        whole = limits.request_time
        return self._replace(
            header=min(self.header, whole), body=min(self.body, whole), whole=whole, answer=limits.answer_time
        )


class Awaited(Enum):
    """What a connection waits for its peer to send."""

    NOTHING = auto()  # the application is at work
    REQUEST = auto()  # a next request, which need not come
    REQUEST_HEAD = auto()  # the first request head, or the rest of a later one
    BODY = auto()  # the next piece of a body
    REST_OF_BODY = auto()  # the end of a body whose request was answered already


# Python 3.11 looks a member of an Enum up in 0.1 us, which is much for a push.
_NOTHING, _REQUEST, _REQUEST_HEAD, _BODY, _REST_OF_BODY = Awaited


class TimedConnection(Protocol):
    """What deadlines ask and tell the connection that they belong to."""

    def keeps_peer_waiting(self) -> bool:
        """Whether the peer cannot send its body now, because the server does not read or has not told it to go on."""

    def peer_is_late(self, *, to_read: bool) -> None:
        """End the connection: the peer has not read in time, or has not sent what is awaited."""


class Deadlines:
    """The two times of one connection: by when its peer must have sent what is awaited, and read what was written.

    One timer watches the nearer of them. It fires then or earlier, so that a time that moves away does not touch it.
    All times are those of the loop's clock.
    """

    __slots__ = (
        "_body_began", "_body_size", "_connection", "_fires_at", "_full_since", "_idle_seconds", "_loop", "_read_by",
        "_sent_by", "_timer", "_was_excused", "answer_size", "awaited", "times",
    )  # fmt: skip

    def __init__(
        self, loop: asyncio.AbstractEventLoop, times: Times, idle_seconds: float, connection: TimedConnection
    ) -> None:
        """``idle_seconds`` is how long a connection may stay open between two requests."""
        self.awaited = _NOTHING
        """What the peer has to send; :attr:`Awaited.NOTHING` may be set, and leaves the timer as it is."""
        self.answer_size = 0
        """Bytes of the answer that were written so far; kept by the connection."""
        self._loop = loop
        self.times = times
        """What the peer is given."""
        self._idle_seconds = idle_seconds
        self._connection: TimedConnection | None = connection  # None once stopped: else each would keep the other
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = 0.0  # valid while there is a timer
        self._sent_by = inf
        self._read_by = inf
        self._body_began = 0.0  # or was excused last
        self._body_size = 0
        self._was_excused = False  # whether the peer could not go on when its time was over
        self._full_since = inf  # since when the answer has waited for its reader, with pauses

    def stop(self) -> None:
        """Watch nothing any more."""
        self._connection = None
        self._cancel()

    # What the peer sends.

    def await_head(self) -> None:
        """Wait for a request head, of which nothing or a part has come: ``arrivals.py`` watches it."""
        self.awaited = _REQUEST_HEAD
        self._sent_by = inf

    def whole_request_came(self) -> None:
        """Wait for nothing until :meth:`answered`, which comes so soon that the timer may stay as it is."""
        self.awaited = _NOTHING

    def head_came(self) -> None:
        """Wait for nothing, until the body is awaited; its time begins now."""
        self.awaited = _NOTHING
        self._sent_by = inf
        self._body_began, self._body_size = self._loop.time(), 0
        self._was_excused = False

    def body_came(self, size: int) -> None:
        """Count ``size`` bytes of the body."""
        self._body_size += size

    def await_body(self) -> None:
        """Wait for the next piece of the body; one that only has to end keeps its deadline."""
        if self.awaited is not _REST_OF_BODY:
            self.awaited = _BODY
            whole = self._body_began + self.times.for_body(self._body_size)
            self._sent_by = min(self._loop.time() + self.times.body, whole)
            self._watch()

    def body_ended(self) -> None:
        """Wait for the answer; or for the next request, where the answer was given before."""
        if self.awaited is _REST_OF_BODY:
            self.awaited = _REQUEST
            self._send_within(self._idle_seconds)
        else:
            self.awaited = _NOTHING
            self._sent_by = inf

    # What the peer reads.

    def buffer_is_full(self) -> None:
        """Wait for the peer to read: more of the answer is buffered than should be."""
        self._full_since = min(self._full_since, self._loop.time())
        self._read_by = self._full_since + self.times.for_answer(self.answer_size)
        self._watch()

    def buffer_has_room(self) -> None:
        """Note that the peer has read on."""
        self._read_by = inf

    def answered(self, *, body_has_ended: bool) -> None:
        """Wait for the next request, or first for the rest of a body; the next answer has a time of its own."""
        self._full_since = inf
        self.answer_size = 0
        if body_has_ended:
            self.awaited = _REQUEST
            self._send_within(self._idle_seconds)
        else:
            self.awaited = _REST_OF_BODY
            self._send_within(self.times.linger)

    def closing(self, buffered: int) -> None:
        """Wait for the peer to read the last ``buffered`` bytes."""
        self._read_by = self._loop.time() + self.times.for_answer(buffered)
        self._watch()

    # The timer.

    def _send_within(self, seconds: float) -> None:
        self._sent_by = due = self._loop.time() + seconds
        if self._timer is None or self._fires_at > due:
            self._watch()

    def _watch(self) -> None:
        due = min(self._sent_by, self._read_by)
        if self._timer is not None and self._fires_at > due:
            self._cancel()
        if self._timer is None and due < inf and self._connection is not None:
            self._fires_at = due
            self._timer = self._loop.call_at(due, self._expire)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        connection, now = self._connection, self._loop.time()
        if connection is None:
            return
        if now >= self._read_by:
            connection.peer_is_late(to_read=True)
        elif now < self._sent_by:
            self._watch()
        elif self.awaited is _NOTHING:
            self._sent_by = inf
            self._watch()
        elif self.awaited is _BODY and self._excuses(connection):
            self._body_began = now
            self._sent_by = now + self.times.body
            self._watch()
        else:
            connection.peer_is_late(to_read=False)

    def _excuses(self, connection: TimedConnection) -> bool:
        """Return whether the peer could not send, now or a period ago: it may have been told to go on only just now."""
        before, self._was_excused = self._was_excused, connection.keeps_peer_waiting()
        return before or self._was_excused

"""The follower: where each followed channel is; what was heard, what was handed out, what must be fetched.

A cursor per channel makes notifications mere hints: what is known is dropped, and what is missing is fetched from the
log. So nothing that happens to a notification can lose or double a message.

Messages that are heard count as what the log holds, because a commit has sealed them. But every role can listen, and
can repeat later what it heard. That moves nothing. Either the cursor is past those messages, or the log has gone back
since, and then they are of another epoch than the cursor. So messages of another epoch are a hint, too.

The log may go back: an older backup is restored, or a standby takes over that had not received everything. Then it has
another epoch (docs/design/epochs.md), and everything read from it comes with the channel's lineage. The cursor is
judged by that before anything that was read is handed out: a :class:`~app.core.message.EpochChange` takes back what
the log no longer has.

What was taken back is handed out before everything else that was committed after it. So a subscriber whose token was
revoked while this process was away gets nothing of what came since. :data:`~app.core.channel.ACCESS` is fetched and
handed out first, and from when a session begins to listen until it has compared the heads, nothing is handed out.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import structlog

from app.bus.place import Place
from app.core.channel import ACCESS
from app.core.epochs import begins, label, name, shared
from app.core.message import Batch, EpochChange, Message, Position, consecutive

MAX_READY_BYTES = 16 * 1024 * 1024
"""The most bytes held of all channels together until they are handed out. What comes then is fetched later."""

MAX_FETCH_CHANNELS = 64

FORGOTTEN_SECONDS = 60.0
"""A channel whose head was compared this recently cannot have got messages and lost them again since."""

REST_SECONDS = 0.02
"""The pause after a fetch that found nothing. It bounds what hints, which every role may send, cost the database."""

_log = structlog.get_logger(__name__)


Fetch = Callable[[dict[str, int]], Awaitable[dict[str, tuple[Place, tuple[Message, ...]]]]]
"""Reads, for each channel, its place and the next messages of the log past an offset. May raise."""


@dataclass(slots=True)
class _Cursor:
    handed: int | None = None
    """Offset of the last message handed out; None until the head was read."""
    head: int = 0
    """The highest offset heard of."""
    lineage: str = ""
    """The lineage of the messages up to here; valid once it was read."""
    label: str = ""
    """The label of their positions."""
    turned: int | None = None
    """The head when the lineage or ``handed`` changed; None once a EpochChange has told it."""
    ready: list[Message] = field(default_factory=list)
    """Messages that follow ``handed`` without a hole."""
    size: int = 0

    @property
    def end(self) -> int:
        return self.ready[-1].offset if self.ready else self.handed or 0


class Follower:
    """Turns hints into each channel's messages in order, each once."""

    def __init__(self, fetch: Fetch) -> None:
        self.epoch = ""
        """The log's newest epoch; empty until it is known."""
        self.seen = float("-inf")
        """When the heads of all followed channels were last compared with what is here (:func:`time.monotonic`)."""
        self._fetch = fetch
        self._cursors: dict[str, _Cursor] = {}
        self._ready: OrderedDict[str, None] = OrderedDict()
        """In the order in which they came: the first one of a dict costs a look at each that was removed before it."""
        self._behind: dict[str, None] = {}
        self._size = 0
        self._news = asyncio.Event()
        self._rested = 0.0
        """When the next fetch may begin."""
        self._is_held = False

    def __len__(self) -> int:
        return len(self._cursors)

    def __contains__(self, channel: str) -> bool:
        return channel in self._cursors

    @property
    def held(self) -> int:
        """Bytes of data that are held until they are handed out."""
        return self._size

    def places(self, channels: Iterable[str] | None = None) -> dict[str, Place]:
        """Return, for each channel that has begun, its lineage and the offset up to which its messages are here.

        With ``channels``, only for those.
        """
        cursors = [
            (channel, self._cursors.get(channel)) for channel in (self._cursors if channels is None else channels)
        ]
        return {
            channel: Place(cursor.lineage, cursor.end)
            for channel, cursor in cursors
            if cursor is not None and cursor.handed is not None
        }

    async def follow(self, channel: str, read_place: Callable[[str], Awaitable[Place]]) -> Position:
        """Begin at the head that ``read_place`` returns; hints that come meanwhile are remembered."""
        cursor = self._cursors[channel] = _Cursor()
        try:
            place = await read_place(channel)
        except BaseException:
            self.unfollow(channel)
            raise
        cursor.handed, cursor.lineage, cursor.label = place.head, place.lineage, label(place.lineage)
        self.look(channel, place.head)
        return Position(cursor.label, place.head)

    def unfollow(self, channel: str) -> None:
        """Forget the channel."""
        cursor = self._cursors.pop(channel, None)
        if cursor is not None:
            self._size -= cursor.size
        self._ready.pop(channel, None)
        self._behind.pop(channel, None)

    def hear(self, channel: str, epoch: str, messages: Sequence[Message]) -> None:
        """Take the messages of a notification that a commit has sealed; the channel must be followed."""
        cursor = self._cursors[channel]
        first, last, end = messages[0].offset, messages[-1].offset, cursor.end
        out_of_turn = cursor.handed is None or cursor.head > end or first > end + 1
        if out_of_turn or epoch != name(cursor.lineage):
            self.look(channel, last)
        elif last > end:
            self._keep(channel, cursor, messages[max(0, end + 1 - first) :])

    def look(self, channel: str, head: int) -> None:
        """Learn that the channel has messages up to ``head``."""
        cursor = self._cursors.get(channel)
        if cursor is None:
            return
        cursor.head = max(cursor.head, head)
        if cursor.handed is not None and cursor.head > cursor.end:
            self._behind[channel] = None
            self._news.set()

    def hold(self) -> None:
        """Hand out nothing until :meth:`release`: a session begins to listen, and what was missed is not known yet."""
        self._is_held = True

    def release(self) -> None:
        """Go on, after the heads were compared."""
        if self._is_held:
            self._is_held = False
            self._rested = 0.0  # ACCESS may be behind: it does not wait for what hints have cost
            self._news.set()

    def judge(self, channel: str, asked: int, place: Place) -> bool:
        """Learn the channel's place in the log; return whether the messages here are in the log.

        ``asked`` is the offset up to which messages were here when the place was read. If more have come since, the
        place says nothing of those.
        """
        cursor = self._cursors.get(channel)
        if cursor is None or cursor.handed is None or cursor.end != asked:
            return False
        if place.lineage == cursor.lineage and place.head >= asked:
            return True
        common = shared(Position(cursor.lineage, asked), place.lineage, place.head) or 0
        if common < asked:
            _log.error("log_went_back", channel=channel, had=asked, common=common)
            self._forget(channel, cursor)
            cursor.handed, cursor.head = min(cursor.handed, common), place.head
        elif self._was_forgotten(cursor, place):  # and began anew
            cursor.handed = max(cursor.handed, min(begins(place.lineage) - 1, place.head))
        cursor.lineage, cursor.label, cursor.turned = place.lineage, label(place.lineage), place.head
        self._ready[channel] = None
        self._news.set()
        self._behind.pop(channel, None)
        self.look(channel, place.head)
        return common == asked

    def _was_forgotten(self, cursor: _Cursor, place: Place) -> bool:
        """Whether retention forgot the channel, so that it had no messages between the cursor and its new beginning.

        Retention opens no epoch. Where there is a new one, a head may be gone whose messages this process never had.
        """
        is_same_epoch = name(place.lineage) == name(cursor.lineage)
        return is_same_epoch and not cursor.ready and time.monotonic() < self.seen + FORGOTTEN_SECONDS

    async def next_batch(self) -> Batch | EpochChange:
        """Wait for the next messages of any channel, or its turn. Raises what ``fetch`` raises; call again then."""
        while (news := self.ready_batch()) is None:
            if self._behind and not self._is_held:
                await self._catch_up()
            else:
                await self._hear()
        return news

    def ready_batch(self) -> Batch | EpochChange | None:
        """Return the next messages of any channel, or its turn, if they are here and due; else None."""
        if not self._ready or self._is_held or self._is_access_due():
            return None
        channel = ACCESS if ACCESS in self._ready else next(iter(self._ready))
        cursor = self._cursors[channel]
        if cursor.turned is not None:
            return self._turn(channel, cursor, cursor.turned)
        batch = Batch(channel, cursor.label, consecutive(cursor.ready))
        cursor.handed = batch.last
        rest = cursor.ready[len(batch.messages) :]
        self._forget(channel, cursor)
        if rest:
            self._keep(channel, cursor, rest)
        return batch

    def _turn(self, channel: str, cursor: _Cursor, head: int) -> EpochChange:
        cursor.turned = None
        if not cursor.ready:
            del self._ready[channel]
        return EpochChange(channel, cursor.handed or 0, cursor.lineage, head)

    def _is_access_due(self) -> bool:
        """Whether to fetch what was taken back now: hints, which every role may send, hold others up once a rest."""
        return ACCESS in self._behind and time.monotonic() >= self._rested

    async def _hear(self) -> None:
        self._news.clear()
        await self._news.wait()

    async def _catch_up(self) -> None:
        if (rest := self._rested - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):  # what is heard in the meantime may be handed out
                async with asyncio.timeout(rest):
                    await self._hear()
            return
        first = [ACCESS] if ACCESS in self._behind else []
        wanted = list(dict.fromkeys([*first, *islice(self._behind, MAX_FETCH_CHANNELS)]))[:MAX_FETCH_CHANNELS]
        asked = {name: self._cursors[name].end for name in wanted}
        hints = {name: self._cursors[name].head for name in wanted}
        found = await self._fetch(asked)
        if not any(messages for _, messages in found.values()):
            self._rested = time.monotonic() + REST_SECONDS
        for channel, (place, messages) in found.items():
            if channel in self._behind and self.judge(channel, asked[channel], place):
                cursor = self._cursors[channel]
                if cursor.head == hints[channel]:  # nothing was heard since: the log counts more than a hint
                    cursor.head = place.head
                self._take(channel, cursor, place.head, messages)

    def _take(self, channel: str, cursor: _Cursor, head: int, messages: tuple[Message, ...]) -> None:
        if messages:
            self._keep(channel, cursor, messages)
        else:  # the log no longer holds the messages up to its head: go on behind the hole
            cursor.handed = max(cursor.end, head)
        self._behind.pop(channel, None)
        if cursor.end < cursor.head:  # again, after the others, so that hints for many channels hold up no other
            self._behind[channel] = None

    def _keep(self, channel: str, cursor: _Cursor, messages: Sequence[Message]) -> None:
        if self._size >= MAX_READY_BYTES and channel != ACCESS:
            self.look(channel, messages[-1].offset)
            return
        size = sum([len(message.data) for message in messages])
        cursor.ready.extend(messages)
        cursor.size += size
        self._size += size
        cursor.head = max(cursor.head, cursor.end)
        self._ready[channel] = None
        self._news.set()

    def _forget(self, channel: str, cursor: _Cursor) -> None:
        self._size -= cursor.size
        cursor.ready, cursor.size = [], 0
        self._ready.pop(channel, None)

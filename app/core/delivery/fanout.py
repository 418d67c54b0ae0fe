"""Fan-out: one channel's messages to all subscriptions of a process.

Subscriptions at the head are *live*: they are written the same bytes together. All messages that
arrive within one turn of the loop go out in one write: a system call costs the same for a few bytes
and for some thousands, so the only way to be faster is to write less often.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Generic, Protocol, TypeVar

from app.core.delivery.encoded_blocks import EncodedBlocks
from app.core.delivery.encodings import Encoding
from app.core.delivery.flushes import Flushes
from app.core.delivery.live import LiveGroup
from app.core.epochs import label, shared
from app.core.errors import AbideError
from app.core.message import Batch, EpochChange, Message, Position
from app.core.ports import UNMETERED, Meter, Writer
from app.core.tail import Tail, TailBudget

SLICE = 2000
"""The most writes in one turn of the loop, so that thousands of subscribers do not block everything else."""


class FanoutMember(Protocol):
    """What the fan-out needs of a subscription."""

    cursor: int
    encoding: Encoding

    def advance(self) -> None:
        """Send on from the cursor, and join the live subscriptions at the head."""

    def rewound(self, epoch: str, offset: int) -> None:
        """Learn that messages past ``offset``, labelled ``epoch``, are lost."""

    def missed(self, offset: int) -> None:
        """Learn that messages between ``offset`` and the next are lost; :meth:`advance` follows."""

    def end(self, error: AbideError) -> None:
        """Send nothing more, and tell the subscriber why."""


SubscriptionT = TypeVar("SubscriptionT", bound=FanoutMember)


class Fanout(Generic[SubscriptionT]):
    """One channel: its tail, the subscriptions that are live, and those that are not.

    A :class:`~app.core.ports.Sink`. Invariant: every live subscription has been sent everything up to
    ``_sent``, or up to ``_before`` while it waits for the payload that is being written.
    """

    __slots__ = (
        "_before",
        "_behind",
        "_flushes",
        "_joining",
        "_live",
        "_messages",
        "_oldest",
        "_payloads",
        "_scheduled",
        "_sent",
        "blocks",
        "meter",
        "name",
        "slow",
        "tail",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913, PLR0917 — the hub alone makes them
        self,
        name: str,
        budget: TailBudget,
        meter: Meter = UNMETERED,
        slow: set[SubscriptionT] | None = None,
        blocks: EncodedBlocks | None = None,
        flushes: Flushes | None = None,
    ) -> None:
        self.name = name
        self.tail = Tail(budget)
        self.meter = meter
        self.blocks = blocks or EncodedBlocks()
        """Cached encodings for subscriptions that are not live; shared by all channels of the hub."""
        self.slow: set[SubscriptionT] = set() if slow is None else slow
        """Subscriptions whose writer is full; shared by all channels of the hub."""
        self._flushes = flushes or Flushes()
        """Shared by all channels of the hub."""
        self._live: list[LiveGroup[SubscriptionT, Writer]] = []
        """One group for each encoding and class of writer that there is."""
        self._behind: set[SubscriptionT] = set()
        self._joining: list[SubscriptionT] = []
        self._payloads: dict[Encoding, bytes] = {}
        """What is being written to the live subscriptions, slice by slice; empty in between."""
        self._messages = 0
        """How many messages a payload has."""
        self._oldest = 0
        """The time of the first of them."""
        self._before = 0
        self._sent = 0
        self._scheduled = False

    def __len__(self) -> int:
        return sum(len(group.members) for group in self._live) + len(self._behind)

    def __iter__(self) -> Iterator[SubscriptionT]:
        yield from self._all_live()
        yield from list(self._behind)

    def __contains__(self, subscription: SubscriptionT) -> bool:
        return subscription in self._behind or self._group_of(subscription) is not None

    def start(self, position: Position) -> None:
        """Start after ``position``."""
        self.tail.start(position)
        self._sent = position.offset

    def deliver(self, batch: Batch) -> None:
        """Take the next messages; they are written in the next turn of the loop."""
        self.tail.deliver(batch)
        self._schedule()

    def change_epoch(self, change: EpochChange) -> None:
        """Go on in another epoch; tell subscriptions that were sent more than the log has of a gap."""
        if change.offset > self.tail.head:
            self._skip_to(change.offset)
        epoch, told, goes_back = self.tail.epoch, self.tail.told, change.offset < self.tail.head
        self.tail.change_epoch(Position(label(change.lineage), change.offset))
        if goes_back:
            self._all_leave()
            self._joining.clear()
        for subscription in list(self._behind):
            if subscription.cursor > change.offset:  # the log may have had it, and this process not yet
                had = Position(epoch, subscription.cursor)
                subscription.rewound(told, shared(had, change.lineage, change.head) or 0)

    def _skip_to(self, offset: int) -> None:
        """Go on after ``offset``: the channel has no messages before it."""
        head = self.tail.head
        if self._sent == head:
            self._sent = offset
        for subscription in self._behind:
            if subscription.cursor == head:
                subscription.cursor = offset

    def lose(self) -> None:
        """Tell every subscription of a gap after the newest message, which each is sent first."""
        self._all_leave()
        self._joining.clear()
        told = list(self._behind)
        for subscription in told:
            subscription.missed(self.tail.head)
        self._advance(told)

    def _advance(self, subscriptions: list[SubscriptionT]) -> None:
        """Let subscriptions send on, in slices."""
        for subscription in subscriptions[:SLICE]:
            if subscription in self._behind:
                subscription.advance()
        if rest := subscriptions[SLICE:]:
            asyncio.get_running_loop().call_soon(self._or_fail, partial(self._advance, rest))

    def failed(self) -> None:
        """End every subscription, because nobody knows what each was sent; clients reconnect and resume."""
        self._all_leave()
        self._payloads, self._joining = {}, []
        error = AbideError("a delivery failed in the server; its log says why: reconnect and resume")
        for subscription in list(self._behind):
            with contextlib.suppress(Exception):  # the others must be told even if this one cannot be
                subscription.end(error)

    def add(self, subscription: SubscriptionT) -> None:
        """Add a subscription; it becomes live by :meth:`join`."""
        self._behind.add(subscription)

    def join(self, subscription: SubscriptionT, writer: Writer) -> None:
        """Make a subscription live, at once or when the head has reached its cursor."""
        # The live ones may still have to be sent what this one has already.
        if subscription.cursor != self.tail.head or self._sent != self.tail.head or self._payloads:
            self._joining.append(subscription)
            return
        self._behind.discard(subscription)
        for group in self._live:
            if group.takes(subscription.encoding, writer):
                break
        else:
            group = LiveGroup(subscription.encoding, type(writer))
            self._live.append(group)
        group.members[subscription] = writer

    def leave(self, subscription: SubscriptionT) -> None:
        """Make a subscription no longer live, with its cursor after what it was sent; do nothing if it is not live."""
        group = self._group_of(subscription)
        if group is not None:
            subscription.cursor = self.position(subscription)
            group.remove(subscription)
            if not group.members:
                self._live.remove(group)
            self._behind.add(subscription)

    def remove(self, subscription: SubscriptionT) -> None:
        """Forget a subscription."""
        self.leave(subscription)
        self._behind.discard(subscription)

    def position(self, subscription: SubscriptionT) -> int:
        """Return the offset up to which a subscription was sent every message."""
        group = self._group_of(subscription)
        if group is None:
            return subscription.cursor
        return self._before if group.is_waiting(subscription) else self._sent

    def _group_of(self, subscription: SubscriptionT) -> LiveGroup[SubscriptionT, Writer] | None:
        """Return the group of a live subscription; None if it is not live."""
        for group in self._live:
            if subscription in group.members:
                return group
        return None

    def _all_live(self) -> list[SubscriptionT]:
        return [subscription for group in self._live for subscription in group.members]

    def _all_leave(self) -> list[SubscriptionT]:
        """Make no subscription live, and start again at the head; return those that were live."""
        stragglers = self._all_live()
        for subscription in stragglers:
            self.leave(subscription)
        self._sent = self.tail.head
        return stragglers

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._flushes.join(self._flush)

    def _flush(self) -> None:
        """Write what has arrived since the last time to all live subscriptions."""
        self._scheduled = False
        if self._payloads:  # the flush before is still under way, and sends this too
            return
        try:
            self._send_news()
        except Exception as error:  # noqa: BLE001 — a bug ends the subscriptions, but not the channel
            self._fail(error)

    def _or_fail(self, step: Callable[[], None]) -> None:
        """Run one step that the event loop calls later."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 — as above
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """End the subscriptions, and report the error."""
        self.meter.failed("delivery")
        self.failed()
        context = {"message": "delivery_failed", "exception": error, "channel": self.name}
        asyncio.get_running_loop().call_exception_handler(context)

    def _send_news(self) -> None:
        held = self.tail.messages
        messages = held.past(self._sent)
        if messages is None:  # the tail has dropped some of them
            for subscription in self._all_leave():
                subscription.advance()
        elif messages:
            self._before, self._sent = self._sent, held.head
            self._messages, self._oldest = len(messages), messages[0].time
            if not self._write_at_once(messages):
                self._payloads = self._encode(messages)
                for group in self._live:
                    group.begin()
                self._write_slice()
                return
        self._finish()

    def _write_at_once(self, messages: tuple[Message, ...]) -> bool:
        """Write to all live subscriptions if they are one group that fits into a turn, as mostly; else return False."""
        if len(self._live) != 1:
            return False
        group = self._live[0]
        if len(group.members) > SLICE:
            return False
        written = group.write_to_all(group.encoding(self.name, self.tail.epoch, messages))
        self.meter.delivered(self.name, written * self._messages, self._oldest)
        return True

    def _encode(self, messages: Sequence[Message]) -> dict[Encoding, bytes]:
        name, epoch = self.name, self.tail.epoch
        return {encoding: encoding(name, epoch, messages) for encoding in {group.encoding for group in self._live}}

    def _write_slice(self) -> None:
        room = SLICE
        groups = [group for group in self._live if not group.is_done()]
        for group in groups:
            room -= group.write(self._payloads[group.encoding], room)
        if room < SLICE:
            self.meter.delivered(self.name, (SLICE - room) * self._messages, self._oldest)
        if all(group.is_done() for group in groups):
            self._payloads = {}
            self._finish()
        else:
            asyncio.get_running_loop().call_soon(self._or_fail, self._write_slice)

    def _finish(self) -> None:
        if self._joining:
            joining, self._joining = self._joining, []
            for subscription in joining:
                if subscription in self._behind:
                    subscription.advance()
        if self.tail.messages.head != self._sent:
            self._schedule()

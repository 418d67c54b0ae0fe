"""Fan-out: one channel's messages to all subscriptions of a process.

Those at the head are *live*: they share one write of the same bytes. What is appended within one
turn of the loop goes out in one write, however many messages it is: a system call costs the same
for a few bytes and for some thousands, so fewer writes are all that is faster than one by one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from app.core.delivery.encoded_blocks import EncodedBlocks
from app.core.delivery.encodings import Encoding
from app.core.delivery.live import LiveGroup
from app.core.epochs import label, shared
from app.core.errors import AbideError
from app.core.message import Batch, EpochChange, Message, Position
from app.core.ports import UNMETERED, Meter, Writer
from app.core.tail import Tail, TailBudget

SLICE = 2000
"""Writes in one turn of the loop, so that thousands of subscribers do not hold up everybody else."""

_EVERYTHING = 2**63


class FanoutMember(Protocol):
    """What the fan-out needs of a subscription."""

    cursor: int
    encoding: Encoding

    def advance(self) -> None:
        """Go on from the cursor: behind the head by itself, at the head with the others."""

    def rewound(self, epoch: str, offset: int) -> None:
        """Learn that what was sent past ``offset`` is lost; ``epoch`` labelled it."""

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
        "_joining",
        "_live",
        "_messages",
        "_payloads",
        "_scheduled",
        "_sent",
        "blocks",
        "meter",
        "name",
        "slow",
        "tail",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        budget: TailBudget,
        meter: Meter = UNMETERED,
        slow: set[SubscriptionT] | None = None,
        blocks: EncodedBlocks | None = None,
    ) -> None:
        self.name = name
        self.tail = Tail(budget)
        self.meter = meter
        self.blocks = blocks or EncodedBlocks()
        """What those who are not live are sent; the hub's, of all channels."""
        self.slow: set[SubscriptionT] = set() if slow is None else slow
        """Subscriptions whose writer is full; the hub's, of all channels."""
        self._live: dict[tuple[Encoding, type[Writer]], LiveGroup[SubscriptionT, Writer]] = {}
        self._behind: set[SubscriptionT] = set()
        self._joining: list[SubscriptionT] = []
        self._payloads: dict[Encoding, bytes] = {}
        """What is being written to the live ones, slice by slice."""
        self._messages = 0
        """How many are in a payload."""
        self._before = 0
        self._sent = 0
        self._scheduled = False

    def __len__(self) -> int:
        return sum(len(group.members) for group in self._live.values()) + len(self._behind)

    def __iter__(self) -> Iterator[SubscriptionT]:
        yield from self._all_live()
        yield from list(self._behind)

    def __contains__(self, subscription: SubscriptionT) -> bool:
        return subscription in self._behind or self._group_of(subscription) is not None

    def start(self, position: Position) -> None:
        """Begin after ``position``."""
        self.tail.start(position)
        self._sent = position.offset

    def deliver(self, batch: Batch) -> None:
        """Take the next messages; they go out when this turn of the loop is over."""
        self.tail.deliver(batch)
        self._schedule()

    def change_epoch(self, change: EpochChange) -> None:
        """Go on in another epoch; who was sent more than the log has is told of a gap."""
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
        """Go on after ``offset``: the channel had no messages up to there."""
        head = self.tail.head
        if self._sent == head:
            self._sent = offset
        for subscription in self._behind:
            if subscription.cursor == head:
                subscription.cursor = offset

    def failed(self) -> None:
        """End every subscription, for nobody knows what each was sent; later messages go to those that come back."""
        self._all_leave()
        self._payloads, self._joining = {}, []
        error = AbideError("a delivery failed in the server; its log says why: reconnect and resume")
        for subscription in list(self._behind):
            with contextlib.suppress(Exception):  # one that cannot be told keeps it from no other
                subscription.end(error)

    def add(self, subscription: SubscriptionT) -> None:
        """Take in a subscription; it is live when it has joined."""
        self._behind.add(subscription)

    def join(self, subscription: SubscriptionT, writer: Writer) -> None:
        """Make a subscription live whose cursor stands at the head, or will when the head gets there."""
        # Others may still have to be sent what it has already.
        if subscription.cursor != self.tail.head or self._sent != self.tail.head or self._payloads:
            self._joining.append(subscription)
            return
        self._behind.discard(subscription)
        key = subscription.encoding, type(writer)
        group = self._live.get(key)
        if group is None:
            group = self._live[key] = LiveGroup(*key)
        group.members[subscription] = writer

    def leave(self, subscription: SubscriptionT) -> None:
        """Make a subscription no longer live, its cursor after what it was sent; harmless if it is not."""
        group = self._group_of(subscription)
        if group is not None:
            subscription.cursor = self.position(subscription)
            group.remove(subscription)
            if not group.members:
                del self._live[group.encoding, group.writer_class]
            self._behind.add(subscription)

    def remove(self, subscription: SubscriptionT) -> None:
        """Forget a subscription."""
        self.leave(subscription)
        self._behind.discard(subscription)

    def position(self, subscription: SubscriptionT) -> int:
        """Return the offset up to which a subscription was sent everything."""
        group = self._group_of(subscription)
        if group is None:
            return subscription.cursor
        return self._before if group.is_waiting(subscription) else self._sent

    def _group_of(self, subscription: SubscriptionT) -> LiveGroup[SubscriptionT, Writer] | None:
        """Return the group of a subscription that is live; None of one that is not."""
        for group in self._live.values():
            if subscription in group.members:
                return group
        return None

    def _all_live(self) -> list[SubscriptionT]:
        return [subscription for group in self._live.values() for subscription in group.members]

    def _all_leave(self) -> list[SubscriptionT]:
        """Make nobody live any more, and begin anew at the head; return who was."""
        stragglers = self._all_live()
        for subscription in stragglers:
            self.leave(subscription)
        self._sent = self.tail.head
        return stragglers

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Send what has come since the last time to all who are live."""
        self._scheduled = False
        if not self._payloads:  # else the flush before this one is not through; it goes on by itself
            self._or_fail(self._send_news)

    def _or_fail(self, step: Callable[[], None]) -> None:
        """Do one step of the loop's; nobody else would hear that it failed."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 — a bug ends the subscriptions, and never the deliveries
            self.meter.failed("delivery")
            self.failed()
            context = {"message": "delivery_failed", "exception": error, "channel": self.name}
            asyncio.get_running_loop().call_exception_handler(context)

    def _send_news(self) -> None:
        messages = self._news()
        if messages:
            self._before, self._sent = self._sent, messages[-1].offset
            self._messages = len(messages)
            self._payloads = self._encode(messages)
            for group in self._live.values():
                group.begin()
        self._write_slice()

    def _news(self) -> tuple[Message, ...]:
        """Return what the live ones lack; if the tail no longer holds it all, make them catch up instead."""
        if self.tail.messages.first > self._sent + 1:
            for subscription in self._all_leave():
                subscription.advance()
            return ()
        return self.tail.messages.after(self._sent, _EVERYTHING, _EVERYTHING)

    def _encode(self, messages: Iterable[Message]) -> dict[Encoding, bytes]:
        name, epoch = self.name, self.tail.epoch
        return {encoding: encoding(name, epoch, messages) for encoding in {encoding for encoding, _ in self._live}}

    def _write_slice(self) -> None:
        room = SLICE
        groups = [group for group in self._live.values() if not group.is_done()]
        for group in groups:
            room -= group.write(self._payloads[group.encoding], room)
        if room < SLICE:
            self.meter.delivered(self.name, (SLICE - room) * self._messages)
        if all(group.is_done() for group in groups):
            self._finish()
        else:
            asyncio.get_running_loop().call_soon(self._or_fail, self._write_slice)

    def _finish(self) -> None:
        self._payloads = {}
        joining, self._joining = self._joining, []
        for subscription in joining:
            if subscription in self._behind:
                subscription.advance()
        if self.tail.head != self._sent:
            self._schedule()

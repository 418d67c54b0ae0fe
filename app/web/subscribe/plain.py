"""One subscriber's connection: the plain form, and what all forms share.

Nothing here waits: a connection is told what happens, and has no task of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from copy import copy

from app.core import data as json_data
from app.core.channel import Channel, Identity
from app.core.data import MAX_ENVELOPE
from app.core.delivery.hub import Hub
from app.core.delivery.subscription import Subscription
from app.core.errors import CLOSE_CODES, AbideError, GapError, NoRoomError, UnsupportedTypeError, of_bug
from app.core.message import Published, Record
from app.core.ports import Intake, Publisher, Writer
from app.core.resume import Begin, Gap, Reason
from app.web.edge.access import Line
from app.web.subscribe.guard import guarded, report
from app.wire.close_codes import CloseCode, fit_reason

_running: set[asyncio.Task[None]] = set()
"""Keeps the tasks of connections alive: the loop alone holds them weakly."""


class Connection:
    """What every form of a connection has: a log line, a writer, and a turn for what its subscriber sends.

    A :class:`~app.core.ports.Peer`; :meth:`handle`, :meth:`stall`, :meth:`go_on` and :meth:`release` are its form's.
    Invariant: nothing is read while a text is being handled, nor while the writer is full with the answers. So a
    subscriber that sends and does not read makes the server hold one answer more than fits.
    """

    __slots__ = ("_handling", "_intake", "_line", "_writer", "hub", "identity", "is_over", "publisher")

    def __init__(self, hub: Hub, publisher: Publisher, intake: Intake, identity: Identity, line: Line) -> None:
        self.hub = hub
        self._intake = intake
        self.publisher = publisher
        self.identity = identity
        self._line = line
        self._writer: Writer
        """Valid once begun."""
        self._handling = False
        self.is_over = False
        """Whether it has given back what it held: what comes later has to be given back at once."""
        hub.meter.connected("websocket")

    # What the server tells.

    @guarded
    def received(self, data: bytes, *, text: bool) -> None:
        """Handle what the subscriber sent."""
        if not text:
            self.fail(UnsupportedTypeError("a message is a text frame of JSON; this one is binary"))
            return
        if not self._intake.grow(0, len(data)):
            self.hub.meter.limited("frames_held")
            self.fail(NoRoomError("too much of unfinished messages is held already: reconnect, and resume"))
            return
        self._handling = True
        self._writer.pause()
        _start(self._handle(data))

    @guarded
    def full(self) -> None:
        """Stop at what was sent."""
        self.stall()

    @guarded
    def drained(self) -> None:
        """Go on from there, and read on."""
        self.go_on()
        self._read_on()

    def most(self) -> int:
        """Return the bytes of the largest text that is taken."""
        raise NotImplementedError

    def closed(self, code: int) -> None:
        """Give everything back, and write the line."""
        self.is_over = True
        self.hub.leave(self)
        self.hub.meter.disconnected("websocket")
        try:
            self.release(self._line)
        except Exception as error:  # noqa: BLE001 — reported with its trace
            report(error, self._line, self.hub.meter)
        self._line.close_code = code
        self._line.write()

    # How it ends.

    def fail(self, error: AbideError) -> None:
        """Close the connection, and say why."""
        self._line.close_reason = fit_reason(str(error))
        code = CLOSE_CODES[error.code]
        if code is CloseCode.INTERNAL_ERROR:
            report(error, self._line, self.hub.meter)
        self._writer.close(code, self._line.close_reason)

    def crash(self, error: BaseException) -> None:
        """Close the connection because of a bug."""
        self.fail(of_bug(error))

    # What its form does.

    async def handle(self, text: bytes) -> None:
        """Do what one text asks for; an error raised closes the connection."""
        raise NotImplementedError

    def stall(self) -> None:
        """Send nothing more until :meth:`go_on`."""
        raise NotImplementedError

    def go_on(self) -> None:
        """Send again."""
        raise NotImplementedError

    def release(self, line: Line) -> None:
        """Unsubscribe, and note in the line how many messages there were."""
        raise NotImplementedError

    async def publish(self, channel: Channel, name: str, data: bytes, key: str | None = None) -> Published:
        """Publish checked JSON for the subscriber; raise why it cannot be."""
        channel.check_client_publish(self.identity)
        channel.check_size(data)
        (outcome,) = await self.publisher.publish([Record(name, data, key, self.identity.name)])
        if isinstance(outcome, AbideError):
            raise copy(outcome)  # it may be others', too
        return outcome

    async def _handle(self, text: bytes) -> None:
        try:
            await self.handle(text)
        except AbideError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 — reported with its trace
            self.crash(error)
        finally:
            self._intake.release(len(text))
        self._handling = False
        self._read_on()

    def _read_on(self) -> None:
        """Read on, unless what was answered to the last text waits to be sent."""
        if not self._handling and not self._writer.is_full():
            self._writer.resume()


class PlainConnection(Connection):
    """One channel; each text frame is one message's data, both ways."""

    __slots__ = ("_start", "_subscription")

    def __init__(  # noqa: PLR0913, PLR0917 — the arguments of a connection, and one of its own
        self,
        hub: Hub,
        publisher: Publisher,
        intake: Intake,
        identity: Identity,
        line: Line,
        subscription: Subscription,
    ) -> None:
        super().__init__(hub, publisher, intake, identity, line)
        self._subscription = subscription
        self._start = subscription.cursor

    @guarded
    def begin(self, writer: Writer, where: Begin) -> None:
        """Send what comes after where the subscription begins; nothing after a gap, which has no form here."""
        self._writer = writer
        if where.gap is not None:
            self.lost(self._subscription, where.gap)
        self._subscription.attach(writer, self)

    @guarded
    def lost(self, subscription: Subscription, gap: Gap) -> None:
        """End: what was asked for is not held any more. Only where the channel drops messages it goes on."""
        if gap.reason is not Reason.DROPPED:
            subscription.end(GapError(f"messages after {gap.after} are missing: {gap.reason}"))

    @guarded
    def ended(self, _: Subscription, error: AbideError) -> None:
        """Close."""
        self.fail(error)

    def most(self) -> int:
        """Return what the channel takes of this subscriber."""
        return MAX_ENVELOPE + self._subscription.channel.most_from(self.identity)

    def stall(self) -> None:
        """Stop at what was sent."""
        self._subscription.full()

    def go_on(self) -> None:
        """Go on from there."""
        self._subscription.drained()

    async def handle(self, text: bytes) -> None:
        """Publish it."""
        subscription = self._subscription
        subscription.channel.check_client_publish(self.identity)
        await self.publish(subscription.channel, subscription.name, await json_data.read(text))

    def release(self, line: Line) -> None:
        """Give back the subscription."""
        line.messages = self._subscription.position.offset - self._start
        self.hub.unsubscribe(self._subscription)


def _start(work: Coroutine[None, None, None]) -> None:
    task = asyncio.get_running_loop().create_task(work)
    _running.add(task)
    task.add_done_callback(_running.discard)

"""The plain form of a WebSocket: one channel, and nothing but messages."""

from __future__ import annotations

from app.core import data as json_data
from app.core.channel import Identity
from app.core.data import MAX_ENVELOPE
from app.core.delivery.hub import Hub
from app.core.delivery.subscription import Subscription
from app.core.errors import AbideError, GapError
from app.core.ports import Intake, Publisher, Writer
from app.core.resume import Beginning, Gap, Reason
from app.web.edge.access import Line
from app.web.subscribe.guard import guarded
from app.web.subscribe.socket_peer import SocketPeer


class PlainSocket(SocketPeer):
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
    def begin(self, writer: Writer, where: Beginning) -> None:
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

    def max_size(self) -> int:
        """Return what the channel takes of this subscriber."""
        return MAX_ENVELOPE + self._subscription.channel.max_publish_size(self.identity)

    def stall(self) -> None:
        """Stop at what was sent."""
        self._subscription.full()

    def go_on(self) -> None:
        """Go on from there."""
        self._subscription.writable()

    async def handle(self, text: bytes) -> None:
        """Publish it."""
        subscription = self._subscription
        subscription.channel.check_client_publish(self.identity)
        await self.publish(subscription.channel, subscription.name, await json_data.read(text))

    def release(self, line: Line) -> None:
        """Give back the subscription."""
        line.messages = self._subscription.position.offset - self._start
        self.hub.unsubscribe(self._subscription)

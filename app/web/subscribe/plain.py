"""The plain form of a WebSocket: one channel and nothing but messages, both ways."""

from __future__ import annotations

from app.core import data as json_data
from app.core.data import MAX_ENVELOPE
from app.core.delivery.hub import Hub
from app.core.delivery.subscription import Subscription
from app.core.errors import AbideError, GapError
from app.core.limits.limiter import Limiter
from app.core.ports import Publisher, Writer
from app.core.resume import Beginning, Gap
from app.core.rights.policy import Identity
from app.web.edge.access import Line
from app.web.edge.doors import Doors
from app.web.subscribe.guard import guarded
from app.web.subscribe.socket_peer import SocketPeer


class PlainSocket(SocketPeer):
    """A WebSocket of one channel, on which each text frame is the data of one message."""

    __slots__ = ("_start", "_subscription")

    def __init__(  # noqa: PLR0913, PLR0917 — the base's arguments and one more
        self,
        hub: Hub,
        doors: Doors,
        publisher: Publisher,
        limiter: Limiter,
        identity: Identity,
        line: Line,
        subscription: Subscription,
    ) -> None:
        super().__init__(hub, doors, publisher, limiter, identity, line)
        self._subscription = subscription
        self._start = subscription.cursor

    @guarded
    def begin(self, writer: Writer, where: Beginning) -> None:
        """Send from the beginning of the subscription on; after a gap close, because this form cannot report one."""
        self._writer = writer
        if where.gap is not None:
            self.lost(self._subscription, where.gap)
        self._subscription.attach(writer, self)

    @guarded
    def lost(self, subscription: Subscription, gap: Gap) -> None:
        """End the subscription, because messages are missing; go on only if the channel dropped them by its policy."""
        if not gap.by_policy:
            place = "" if gap.after is None else f" after {gap.after}"
            subscription.end(GapError(f"messages{place} are missing: {gap.reason}"))

    @guarded
    def ended(self, _: Subscription, error: AbideError) -> None:
        """Close the connection with the error."""
        self.fail(error)

    def max_size(self) -> int:
        """Return the size of the largest text that this subscriber may send, in bytes."""
        return MAX_ENVELOPE + self._subscription.channel.max_publish_size(self.identity)

    def stall(self) -> None:
        """Send nothing more until :meth:`go_on`."""
        self._subscription.full()

    def go_on(self) -> None:
        """Send again, from where :meth:`stall` stopped."""
        self._subscription.writable()

    async def handle(self, text: bytes) -> None:
        """Publish the text."""
        subscription = self._subscription
        subscription.channel.check_client_publish(subscription.name, self.identity)  # before its text is read
        await self.publish(subscription.channel, subscription.name, await json_data.read(text))

    def release(self, line: Line) -> None:
        """Unsubscribe, and note how many messages were sent."""
        line.messages = self._subscription.position.offset - self._start
        self.hub.unsubscribe(self._subscription)

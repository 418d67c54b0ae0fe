"""The ``abide.v1`` form: JSON objects both ways, positions, gaps, any number of channels on one socket."""

from __future__ import annotations

import json
from typing import Any

from app.core import data as json_data
from app.core.channel import Identity
from app.core.errors import CLOSE_CODES, AbideError, CloseCode, MalformedError, UnavailableError, UnknownChannelError
from app.core.frames import Encoding, control
from app.core.hub import Hub
from app.core.ports import Publisher, Writer
from app.core.resume import Begin, Gap, Start
from app.core.subscription import Subscription
from app.web.access import Line
from app.web.connection import ENVELOPE, Connection, most_from_clients
from app.web.problems import STATUSES
from app.web.push import check_key

SUBPROTOCOL = "abide.v1"

_FIELDS = {
    "publish": {"type", "id", "channel", "data", "key"},
    "subscribe": {"type", "id", "channel", "since", "last"},
    "unsubscribe": {"type", "id", "channel"},
}


class Session(Connection):
    """A connection that speaks ``abide.v1``.

    ``only`` is the channel's name on ``/{channel}``, whose end is the connection's end; None on ``/ws``.
    """

    __slots__ = ("_encoding", "_messages", "_only", "_starts", "_subscriptions")

    def __init__(  # noqa: PLR0913, PLR0917 — the arguments of a connection, and two of its own
        self, hub: Hub, publisher: Publisher, identity: Identity, line: Line, encoding: Encoding, only: str | None
    ) -> None:
        super().__init__(hub, publisher, identity, line)
        self._encoding = encoding
        self._only = only
        self._subscriptions: dict[str, Subscription] = {}
        self._starts: dict[str, int] = {}
        self._messages = 0

    def begin(self, writer: Writer, subscription: Subscription | None, where: Begin | None) -> None:
        """Start to speak: on ``/{channel}`` with its subscription, on ``/ws`` with none."""
        self._writer = writer
        if subscription is not None and where is not None:
            self._add(subscription, where, None)

    def lost(self, subscription: Subscription, gap: Gap) -> None:
        """Say so; what is held comes after it."""
        self._say_gap(subscription.name, gap)

    def ended(self, subscription: Subscription, error: AbideError) -> None:
        """Say that the channel is over; on ``/{channel}``, or when it is the connection that is too slow, close."""
        if self._only is not None or isinstance(error, UnavailableError):
            self.fail(error)
        else:
            self._remove(subscription)
            self._say(type="unsubscribed", channel=subscription.name, code=CLOSE_CODES[error.code])

    def most(self) -> int:
        """Return what its one channel takes, or the one that takes most."""
        registry = self.hub.registry
        channel = registry.get(self._only) if self._only is not None else None
        return ENVELOPE + registry.largest_from_clients if channel is None else most_from_clients(channel)

    def full(self) -> None:
        """Stop every subscription at what was sent."""
        for subscription in list(self._subscriptions.values()):
            subscription.full()

    def drained(self) -> None:
        """Let every subscription go on from there."""
        for subscription in list(self._subscriptions.values()):
            subscription.drained()

    def release(self, line: Line) -> None:
        """Give back the subscriptions."""
        for subscription in list(self._subscriptions.values()):
            self._remove(subscription)
        line.messages = self._messages

    async def handle(self, text: bytes) -> None:
        """Do what a message of the subscriber asks for; only what is no JSON object closes."""
        members = json_data.members(json_data.decode(text))
        known: dict[str, Any] = {}
        try:
            known["id"] = _identifier(members)
            if "channel" in members:
                known["channel"] = json_data.string(members["channel"], "'channel'")
            await self._dispatch(members, known)
        except AbideError as error:
            status = STATUSES.get(error.code)
            self._say(type="error", **known, code=error.code, status=status, message=str(error))

    async def _dispatch(self, members: dict[str, str], known: dict[str, Any]) -> None:
        kind = json_data.string(members.get("type", '""'), "'type'")
        if kind not in _FIELDS:
            msg = f"unknown type {kind[:40]!r}: send publish, subscribe or unsubscribe"
            raise MalformedError(msg)
        if unknown := members.keys() - _FIELDS[kind]:
            msg = f"unknown member {min(unknown)!r} of {kind}"
            raise MalformedError(msg)
        name = known.get("channel", self._only)
        if name is None:
            msg = f"'channel' is missing: name the channel to {kind}"
            raise MalformedError(msg)
        match kind:
            case "publish":
                await self._publish(members, name, known["id"])
            case "subscribe":
                await self._subscribe(members, name, known["id"])
            case _:
                self._unsubscribe(name, known["id"])

    async def _publish(self, members: dict[str, str], name: str, identifier: object) -> None:
        if "data" not in members:
            msg = "'data' is missing: it is the message to publish"
            raise MalformedError(msg)
        key = check_key(json_data.string(members["key"], "'key'")) if "key" in members else None
        channel = self.hub.registry.find(name)
        published = await self.publish(channel, name, members["data"].encode(), key)
        self._say(type="published", id=identifier, position=str(published.position))

    async def _subscribe(self, members: dict[str, str], name: str, identifier: object) -> None:
        self._only_on_ws()
        if name in self._subscriptions:
            msg = f"{name!r} is subscribed to already"
            raise MalformedError(msg)
        since = json_data.string(members["since"], "'since'") if "since" in members else None
        start = Start.parse(since, members.get("last"))
        self.hub.registry.find(name).check_subscribe(self.identity)
        subscription, where = await self.hub.subscribe(name, self.identity, self._encoding, start)
        self._add(subscription, where, identifier)

    def _unsubscribe(self, name: str, identifier: object) -> None:
        self._only_on_ws()
        subscription = self._subscriptions.get(name)
        if subscription is None:
            msg = f"{name!r} is not subscribed to"
            raise UnknownChannelError(msg)
        self._remove(subscription)
        self._say(type="unsubscribed", id=identifier, channel=name, code=CloseCode.NORMAL)

    def _only_on_ws(self) -> None:
        if self._only is not None:
            msg = f"this socket is for {self._only!r} alone: use /ws for any number of channels"
            raise MalformedError(msg)

    def _add(self, subscription: Subscription, where: Begin, identifier: object) -> None:
        name = subscription.name
        self._subscriptions[name], self._starts[name] = subscription, where.cursor
        position = str(subscription.position)
        self._say(type="subscribed", id=identifier, channel=name, position=position, resumed=where.resumed)
        if where.gap is not None:
            self._say_gap(name, where.gap)
        subscription.attach(self._writer, self)

    def _remove(self, subscription: Subscription) -> None:
        if self._subscriptions.pop(subscription.name, None) is not None:
            self._messages += max(0, subscription.position.offset - self._starts.pop(subscription.name))
            self.hub.unsubscribe(subscription)

    def _say_gap(self, channel: str, gap: Gap) -> None:
        self._say(type="gap", channel=channel, after=gap.after, next=str(gap.next), reason=gap.reason)

    def _say(self, **members: Any) -> None:  # noqa: ANN401 — JSON
        self._writer.write(self._encoding.wrap(control(**members)))


def _identifier(members: dict[str, str]) -> object:
    """Return the ``id``, a string or a number, or None."""
    identifier = json.loads(members["id"]) if "id" in members else None
    if isinstance(identifier, dict | list | bool):
        msg = "'id' must be a string or a number"
        raise MalformedError(msg)
    return identifier

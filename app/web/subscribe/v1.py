"""The ``abide.v1`` form of a WebSocket: JSON objects both ways, positions, gaps, many channels on one socket."""

from __future__ import annotations

import re
from typing import Any

from app.core import data as json_data
from app.core.channel import MAX_NAME
from app.core.data import MAX_ENVELOPE, SHOWN, MemberError
from app.core.delivery.encodings import Encoding, json_object
from app.core.delivery.hub import Hub
from app.core.delivery.subscription import Subscription
from app.core.errors import (
    CLOSE_CODES,
    AbideError,
    MalformedError,
    RateLimitedError,
    TooManyError,
    UnavailableError,
    UnknownChannelError,
)
from app.core.limits.insistence import Refusals
from app.core.limits.limiter import Limiter
from app.core.message import MAX_OFFSET, check_key
from app.core.ports import Publisher, Writer
from app.core.resume import Beginning, Gap, Start
from app.core.rights.policy import ANONYMOUS, Identity
from app.core.scan import Members
from app.web.edge.access import Line
from app.web.edge.doors import Doors
from app.web.edge.problems import STATUSES, pointer_of
from app.web.subscribe.guard import guarded
from app.web.subscribe.socket_peer import SocketPeer
from app.wire.close_codes import CloseCode

SUBPROTOCOL = "abide.v1"

MAX_ID = 1024
"""The most characters of an ``id``, which is repeated in the answer."""

_FIELDS = {
    "publish": {"type", "id", "channel", "data", "key"},
    "subscribe": {"type", "id", "channel", "since", "last"},
    "unsubscribe": {"type", "id", "channel"},
    "token": {"type", "id", "token"},
}
_MEMBERS = frozenset().union(*_FIELDS.values())
_INTEGER = re.compile(r"-?[0-9]{1,16}", re.ASCII)


class V1Socket(SocketPeer):
    """A WebSocket that speaks ``abide.v1``.

    ``only`` is the channel's name on ``/{channel}``, where the connection ends with its subscription; None on ``/ws``.
    """

    __slots__ = ("_encoding", "_messages", "_only", "_refusals", "_starts", "_subscriptions")

    def __init__(  # noqa: PLR0913, PLR0917 — the base's arguments and two more
        self,
        hub: Hub,
        doors: Doors,
        publisher: Publisher,
        limiter: Limiter,
        identity: Identity,
        line: Line,
        encoding: Encoding,
        only: str | None,
    ) -> None:
        super().__init__(hub, doors, publisher, limiter, identity, line)
        self._encoding = encoding
        self._only = only
        self._subscriptions: dict[str, Subscription] = {}
        self._starts: dict[str, int] = {}
        self._messages = 0
        self._refusals: Refusals | None = None  # by a rate limit; None before the first

    @guarded
    def begin(self, writer: Writer, subscription: Subscription | None, where: Beginning | None) -> None:
        """Start with the subscription of ``/{channel}``, or with none on ``/ws``."""
        self._writer = writer
        if subscription is not None and where is not None:
            self._add(subscription, where, None)

    @guarded
    def lost(self, subscription: Subscription, gap: Gap) -> None:
        """Report the gap; the messages after it follow."""
        self._say_gap(subscription.name, gap)

    @guarded
    def ended(self, subscription: Subscription, error: AbideError) -> None:
        """Report the end of a subscription; close the connection if it has only one channel, or the server failed."""
        if self._only is not None or isinstance(error, UnavailableError) or error.code == AbideError.code:
            self.fail(error)
        else:
            self._remove(subscription)
            self._say(type="unsubscribed", channel=subscription.name, code=CLOSE_CODES[error.code])

    def max_size(self) -> int:
        """Return the size of the largest text that this subscriber may send, in bytes, over all its channels."""
        registry = self.hub.registry
        channel = registry.get(self._only) if self._only is not None else None
        return MAX_ENVELOPE + (channel or registry).max_publish_size(self.identity)

    def stall(self) -> None:
        """Stop every subscription until :meth:`go_on`."""
        for subscription in list(self._subscriptions.values()):
            subscription.full()

    def go_on(self) -> None:
        """Let every subscription send again, from where it stopped."""
        for subscription in list(self._subscriptions.values()):
            subscription.writable()

    def release(self, line: Line) -> None:
        """Unsubscribe from everything, and note how many messages were sent."""
        for subscription in list(self._subscriptions.values()):
            self._remove(subscription)
        line.messages = self._messages

    async def handle(self, text: bytes) -> None:
        """Do what a text of the subscriber asks for; only a text that is not a JSON object closes the connection."""
        refusal = ""
        try:
            members = await json_data.read_members(text, _MEMBERS)
        except MemberError as error:  # keep only its text: the error refers to this frame, and so to the whole message
            members, refusal = error.found, str(error)
        known: dict[str, Any] = {}
        try:
            known["id"] = _identifier(members)
            if "channel" in members:
                known["channel"] = _name(members["channel"])
            if refusal:
                raise MalformedError(refusal)
            await self._dispatch(members, known)
        except AbideError as error:
            status = STATUSES.get(error.code)
            said = {"code": error.code, "status": status, "message": str(error), **pointer_of(error)}
            self._say(type="error", **known, **said)
            if isinstance(error, RateLimitedError) and self._goes_on():
                self.fail(error)

    def _goes_on(self) -> bool:
        """Count a refusal by a rate limit; return whether the subscriber goes on all the same."""
        if self._refusals is None:
            self._refusals = Refusals()
        return self._refusals.go_on()

    async def _dispatch(self, members: Members, known: dict[str, Any]) -> None:
        kind = json_data.string(members.get("type", '""'), "'type'")
        if kind not in _FIELDS:
            msg = f"unknown type {kind[:40]!r}: send publish, subscribe, unsubscribe or token"
            raise MalformedError(msg)
        if unknown := members.keys() - _FIELDS[kind]:
            msg = f"unknown member {min(unknown)!r} of {kind}: its members are {', '.join(sorted(_FIELDS[kind]))}"
            raise MalformedError(msg)
        if kind == "token":
            await self._refresh(members, known["id"])
            return
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

    async def _publish(self, members: Members, name: str, identifier: object) -> None:
        if "data" not in members:
            msg = "'data' is missing: it is the message to publish"
            raise MalformedError(msg)
        key = check_key(json_data.string(members["key"], "'key'")) if "key" in members else None
        channel = self.hub.registry.find(name)
        published = await self.publish(channel, name, members["data"].encode(), key)
        self._say(type="published", id=identifier, position=published.position.text)

    async def _subscribe(self, members: Members, name: str, identifier: object) -> None:
        self._only_on_ws()
        if name in self._subscriptions:
            msg = f"this connection is already subscribed to {name!r}"
            raise MalformedError(msg)
        most = self.limiter.limits.subscriptions
        if len(self._subscriptions) >= most:
            self.hub.meter.limited("subscriptions")
            msg = f"a connection may have at most {most} subscriptions: unsubscribe, or open another one"
            raise TooManyError(msg)
        since = json_data.string(members["since"], "'since'") if "since" in members else None
        start = Start.parse(since, members.get("last"))
        question = self.hub.registry.find(name).check_subscribe(name, self.identity)
        identity = await self.doors.authenticator.admitted(question, self.identity)
        subscription, where = await self.hub.subscribe(
            name, identity, self._encoding, start, has_connection=not identity.asked
        )
        if self.is_over:  # the connection ended while the backend answered
            self.hub.unsubscribe(subscription)
        else:
            self._add(subscription, where, identifier)

    def _unsubscribe(self, name: str, identifier: object) -> None:
        self._only_on_ws()
        subscription = self._subscriptions.get(name)
        if subscription is None:
            msg = f"this connection is not subscribed to {name!r}"
            raise UnknownChannelError(msg)
        self._remove(subscription)
        self._say(type="unsubscribed", id=identifier, channel=name, code=CloseCode.NORMAL)

    async def _refresh(self, members: Members, identifier: object) -> None:
        """Go on with a new token: end what it does not cover, or the whole connection if it is not good."""
        token = members.get("token", '""')
        if not token.startswith('"'):
            msg = "'token' must be a string"  # which shows nothing of it
            raise MalformedError(msg)
        token = json_data.string(token, "'token'")
        try:
            identity = self.hub.judge(await self.doors.authenticator.refresh(self.identity, token))
        except UnavailableError:
            raise
        except AbideError as refusal:
            self.identity = ANONYMOUS
            self.fail(refusal)
            return
        if self.is_over:
            return
        self.identity = identity
        self.hub.sessions.enter(self)
        for subscription in list(self._subscriptions.values()):
            if not subscription.identity.asked:  # else the application's answer holds
                self.hub.recheck(subscription, identity)
        expires = None if identity.token is None else int(identity.token.expires)
        self._say(type="token", id=identifier, expires=expires)

    def _only_on_ws(self) -> None:
        if self._only is not None:
            msg = f"this socket serves only {self._only!r}: use /ws for any number of channels"
            raise MalformedError(msg)

    def _add(self, subscription: Subscription, where: Beginning, identifier: object) -> None:
        name = subscription.name
        self._subscriptions[name], self._starts[name] = subscription, where.cursor
        position = subscription.position.text
        self._say(type="subscribed", id=identifier, channel=name, position=position, resumed=where.resumed)
        if where.gap is not None:
            self._say_gap(name, where.gap)
        subscription.attach(self._writer, self)

    def _remove(self, subscription: Subscription) -> None:
        if self._subscriptions.pop(subscription.name, None) is not None:
            self._messages += max(0, subscription.position.offset - self._starts.pop(subscription.name))
            self.hub.unsubscribe(subscription)

    def _say_gap(self, channel: str, gap: Gap) -> None:
        self._say(type="gap", channel=channel, after=gap.after, next=gap.next.text, reason=gap.reason)

    def _say(self, **members: Any) -> None:  # noqa: ANN401 — JSON
        self._writer.write(self._encoding.wrap(json_object(**members)))


def _name(text: str) -> str:
    """Return a channel's name; if it is too long, only as much of it as shows that."""
    return json_data.string(text, "'channel'")[: MAX_NAME + 1]


def _identifier(members: Members) -> str | int | None:
    """Return the ``id``: a string, an integer that every JSON parser reads exactly, or None."""
    if "id" not in members:
        return None
    text = members["id"]
    if _INTEGER.fullmatch(text) and abs(number := int(text)) <= MAX_OFFSET:
        return number
    if not text.startswith('"'):
        msg = f"'id' must be a string or an integer below 2^53, not {text[:SHOWN]}"
        raise MalformedError(msg)
    identifier = json_data.string(text, "'id'")
    if len(identifier) > MAX_ID:
        msg = f"'id' has {len(identifier)} characters: it may have at most {MAX_ID}"
        raise MalformedError(msg)
    return identifier

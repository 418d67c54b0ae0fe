"""One push: from its request head and body to its answer, however it arrived.

This is the one place that decides. It knows neither sockets nor ASGI. :mod:`~app.web.publish.direct_push` and
:mod:`~app.web.publish.asgi_push` pass on what they receive, and send its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from app.core import data
from app.core.channel import Registry
from app.core.draft import record_of
from app.core.errors import AbideError, NoRoomError, TooLargeError
from app.core.limits.limiter import Limiter
from app.core.message import Record
from app.core.ports import Meter, Publisher, Reply, Submitted
from app.core.rights.policy import Identity
from app.web.edge.auth import Authenticator
from app.web.edge.request import are_short
from app.web.publish import answers, body
from app.web.publish.in_turns import PushInTurns
from app.web.publish.permission import Permission, Sender
from app.web.publish.push_head import PushHead

MAX_BODY = 8 * 1024 * 1024
"""The most bytes of a ``POST /push``, even with an array of messages."""

_MOST_PERMISSIONS = 500

Answer = Callable[[Reply], object]
"""Takes the answer to a push."""


class Push:
    """Decides pushes by the settings in force: who may publish what, and whether it is stored.

    A push is admitted by its head and then decided by its body, because the caller and the channel limit how much of
    the body is read. A refusal is an answer like any other. A bug is one too, and is logged here, once.
    """

    def __init__(
        self,
        registry: Registry,
        authenticator: Authenticator,
        publisher: Publisher,
        meter: Meter,
        limiter: Limiter,
    ) -> None:
        self._registry = registry
        self._authenticator = authenticator
        self._publisher = publisher
        self._meter = meter
        self._intake = limiter.intake
        self._rates = limiter.rates
        self._in_turns = PushInTurns(registry, authenticator, publisher, meter, limiter.rates)
        self._permissions: dict[PushHead, Permission] = {}
        """Those of heads that may come again. They end with the settings, as this does."""

    def __call__(
        self, head: PushHead, peer: str | None, content: bytes, request_id: str | None, answer: Answer
    ) -> None:
        """Decide a push whose body is known; ``peer`` is the client's address, None if unknown.

        ``head`` may come again as the same object. ``answer`` is called once, and not within this call.
        """
        sender = Sender(peer, peer, request_id)
        head = head.seen_from(peer)
        permission = self._permissions.get(head)
        if permission is None or (
            permission.generation is not None and permission.generation != self._authenticator.generation
        ):
            admitted = self.admit(head, sender)
            if isinstance(admitted, Reply):
                _later(answer, admitted)
                return
            permission = admitted
            self._remember(permission)
        self.decide(permission, sender, content, answer)

    def has_channel(self, head: PushHead) -> bool:
        """Whether the channel in the path exists. True if the body names the channel."""
        return head.channel is None or self._registry.get(head.channel) is not None

    def admit(self, head: PushHead, sender: Sender) -> Permission | Reply:
        """Decide by the head alone whether the caller may publish here; return the refusal if not."""
        if head.unreadable is not None:
            return self.refuse(head.unreadable, sender)
        try:
            permission = self._permit(head.seen_from(sender.peer))
        except Exception as error:  # noqa: BLE001 — a bug is answered, too
            return self.refuse(error, sender)
        if head.unfit is not None:
            return self.refuse(head.unfit, sender)
        if head.length > permission.limit:
            return self.refuse(too_large(permission.limit), sender)
        return permission

    def decide(self, permission: Permission, sender: Sender, content: bytes, answer: Answer) -> None:
        """Publish the body of an admitted push; ``answer`` is called when its messages are stored or refused.

        A small body is checked at once. A large body or an array is checked in turns, and counts as held meanwhile. So
        is the body of a caller about whom somebody else must be asked first.
        """
        if len(content) > permission.limit:
            _later(answer, self.refuse(too_large(permission.limit), sender))
            return
        identity = permission.identity
        try:
            if identity is not None and permission.generation is not None:
                self._authenticator.check(identity)  # time has passed since the caller was identified
            record = None
            if identity is not None and permission.question is None and len(content) <= data.INLINE:
                record = self._record(permission, identity, sender, content)
            if record is None:
                self._decide_in_turns(permission, sender, content, answer)
                return
            submitted = self._publisher.publish([record])
        except Exception as error:  # noqa: BLE001 — a bug is answered, too
            _later(answer, self.refuse(error, sender))
            return
        submitted.add_done_callback(partial(self._settle, permission, sender, record, answer))

    def refuse(self, error: Exception, sender: Sender) -> Reply:
        """Count a refusal and return the answer. An unexpected error is logged and answered with 500."""
        return answers.refused(error, self._meter, sender.request_id)

    def _permit(self, head: PushHead) -> Permission:
        """Return what the caller may publish; raise the error that refuses the push."""
        generation: int | None = self._authenticator.generation
        identity = self._authenticator.authenticate(head.caller)
        if identity is None or identity.token is None:
            generation = None
        if head.channel is not None:
            channel = self._registry.find(head.channel)
            question = None if identity is None else channel.check_publish(head.channel, identity)
            return Permission(head, identity, question, channel, channel.max_message_size, generation)
        if identity is not None and not self._authenticator.asks:
            identity.check()
        return Permission(head, identity, None, None, MAX_BODY, generation)

    def _remember(self, permission: Permission) -> None:
        # Once a token has ended, an application may still admit its holder, and has to be asked.
        lasts = permission.lasts and (permission.generation is None or not self._authenticator.asks)
        if lasts and are_short(permission.head.caller.headers):
            if len(self._permissions) >= _MOST_PERMISSIONS:
                self._permissions.clear()
            self._permissions[permission.head] = permission

    def _record(self, permission: Permission, identity: Identity, sender: Sender, content: bytes) -> Record | None:
        """Return the message of a small body, counted by its channel's rate limit; None if it must be read in turns.

        Raises the error that refuses the push.
        """
        head, channel = permission.head, permission.channel
        name, key = head.channel, head.key
        if channel is not None and name is not None:
            message = body.as_data(head.kind, content)
        else:
            if not content.startswith(b"{") and data.is_array(content):
                return None
            name, message, member = body.as_envelope(head.kind, content)
            if member is not None:
                key = body.only_key(key, member)
            channel, question = permission.channel_named(name, self._registry)
            if question is not None:
                return None
        record = record_of(channel, name, message, key, identity.name)
        if channel.rate_limit is not None:
            self._rates.take(channel, name, identity.name, sender.address)
        return record

    def _settle(
        self, permission: Permission, sender: Sender, record: Record, answer: Answer, submitted: Submitted
    ) -> None:
        """Answer a push whose message is stored or refused."""
        try:
            (outcome,) = submitted.result()
            if isinstance(outcome, AbideError):
                reply = self.refuse(outcome, sender)
            else:
                reply = answers.stored(record, outcome, repeats=permission.channel is None)
        except Exception as error:  # noqa: BLE001 — a bug is answered, too
            reply = self.refuse(error, sender)
        answer(reply)

    def _decide_in_turns(self, permission: Permission, sender: Sender, content: bytes, answer: Answer) -> None:
        size = len(content)
        if not self._intake.grow(0, size):
            raise no_room()

        async def decide() -> Reply:
            try:
                return await self._in_turns.decide(permission, sender, content)
            except Exception as error:  # noqa: BLE001 — a bug is answered, too
                return self.refuse(error, sender)

        def answer_it(deciding: asyncio.Task[Reply]) -> None:
            self._intake.release(size)
            if not deciding.cancelled():  # the loop has ended
                answer(deciding.result())

        asyncio.get_running_loop().create_task(decide()).add_done_callback(answer_it)


def too_large(limit: int) -> TooLargeError:
    """Return the error for a body with more bytes than its limit."""
    whose = "the limit" if limit == MAX_BODY else "the channel's max_message_size"
    return TooLargeError(f"the body is larger than {whose} of {limit} bytes")


def no_room() -> NoRoomError:
    """Return the error for a body that exceeds the memory for unfinished bodies."""
    return NoRoomError("the server holds too many unfinished messages: send this one again later")


def _later(answer: Answer, reply: Reply) -> None:
    asyncio.get_running_loop().call_soon(answer, reply)

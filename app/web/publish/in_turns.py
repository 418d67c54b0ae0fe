"""Pushes that take time: large bodies, arrays, and callers about whom somebody else must be asked first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from copy import copy
from typing import NamedTuple

from app.core import data, turns
from app.core.channel import Registry
from app.core.draft import Draft
from app.core.errors import AbideError, MalformedError, bare
from app.core.limits.rate_limits import RateLimits
from app.core.message import Published, Record
from app.core.ports import Meter, Publisher, Reply
from app.core.rights.policy import ANONYMOUS, Question
from app.core.turns import Pace, Steps
from app.web.edge.auth import Authenticator
from app.web.publish import answers, body
from app.web.publish.array import walk_envelopes
from app.web.publish.body import Envelope
from app.web.publish.permission import Permission, Sender


class Pending(NamedTuple):
    """A message that takes time, or that the application must be asked about first."""

    draft: Draft
    question: Question | None


Settled = Record | AbideError
"""A message of an array that is to be published, or the error that refuses it."""

Item = Pending | Settled


class PushInTurns:
    """Decides a push step by step, so that others are served meanwhile."""

    def __init__(
        self, registry: Registry, authenticator: Authenticator, publisher: Publisher, meter: Meter, rates: RateLimits
    ) -> None:
        self._registry = registry
        self._authenticator = authenticator
        self._publisher = publisher
        self._meter = meter
        self._rates = rates

    async def decide(self, permission: Permission, sender: Sender, content: bytes) -> Reply:
        """Publish the body; return the answer when its messages are stored. Raises the error that refuses the push."""
        kind = permission.head.kind
        permission = await self._identified(permission, sender)
        channel = permission.channel
        if channel is None and data.is_array(content):
            return await self._many(permission, sender, content)
        if channel is None:
            draft = await self._admitted(
                permission, *self._enveloped(permission, await body.read_envelope(kind, content))
            )
        else:
            head, identity = permission.head, permission.identity or ANONYMOUS
            message = await body.read_data(kind, content)
            draft = Draft(channel, head.channel or channel.name, message, head.key, identity.name)
        record = await draft.read_record()
        self._count(draft, sender)
        (outcome,) = await self._publisher.publish([record])
        if isinstance(outcome, AbideError):
            raise copy(outcome)  # several messages may share one outcome
        return answers.stored(record, outcome, repeats=channel is None)

    async def _identified(self, permission: Permission, sender: Sender) -> Permission:
        """Return a permission with its identity, and with nothing more to ask about the channel in the path."""
        head, identity, question = permission.head, permission.identity, permission.question
        if identity is None:
            identity = await self._authenticator.identify(head.caller)
            if permission.channel is not None and head.channel is not None:
                question = permission.channel.check_publish(head.channel, identity)
            elif not self._authenticator.asks:
                identity.check()
        identity = identity._replace(forwarded=identity.forwarded._replace(client=sender.peer))
        return permission.admitted(await self._authenticator.admitted(question, identity))

    def _enveloped(self, permission: Permission, envelope: Envelope) -> Pending:
        """Return the message of an envelope, and what the application must be asked about it."""
        name, message, key = envelope
        channel, question = permission.channel_named(name, self._registry)
        publisher = (permission.identity or ANONYMOUS).name
        return Pending(Draft(channel, name, message, body.only_key(permission.head.key, key), publisher), question)

    async def _admitted(self, permission: Permission, draft: Draft, question: Question | None) -> Draft:
        """Return a message as the application admits its publisher; raise the error that refuses it."""
        identity = await self._authenticator.admitted(question, permission.identity or ANONYMOUS)
        return draft._replace(publisher=identity.name)

    def _count(self, draft: Draft, sender: Sender) -> None:
        self._rates.take(draft.channel, draft.name, draft.publisher, sender.address)

    # Arrays.

    async def _many(self, permission: Permission, sender: Sender, content: bytes) -> Reply:
        """Publish an array in order, and not atomically: each item is answered with its result or its problem."""
        if permission.head.key is not None:
            msg = "an Idempotency-Key is for one message: give each item of the array its own 'key'"
            raise MalformedError(msg)
        items = await turns.run(self._items(permission, sender, content))
        records = await self._settled(permission, sender, items)
        good = [record for record in records if not isinstance(record, AbideError)]
        outcomes = iter(await self._publisher.publish(good) if good else ())
        results: list[tuple[str, Published] | AbideError] = []
        for record in records:
            if isinstance(record, AbideError):
                results.append(record)
                continue
            outcome = next(outcomes)
            results.append(outcome if isinstance(outcome, AbideError) else (record.channel, outcome))
        return answers.of_array(results, self._meter)

    async def _settled(self, permission: Permission, sender: Sender, items: Sequence[Item]) -> list[Settled]:
        """Return the record of each item of an array, or the error that refuses it; all questions are asked at once."""
        pending = [item for item in items if isinstance(item, Pending)]
        rest = iter(await asyncio.gather(*[self._record(permission, sender, *item) for item in pending]))
        return [next(rest) if isinstance(item, Pending) else item for item in items]

    async def _record(self, permission: Permission, sender: Sender, draft: Draft, question: Question | None) -> Settled:
        try:
            draft = await self._admitted(permission, draft, question)
            record = await draft.read_record()
            self._count(draft, sender)
        except AbideError as error:
            return bare(error)
        return record

    def _items(self, permission: Permission, sender: Sender, content: bytes) -> Steps[list[Item]]:
        """Return the record of each item of an array, what is still to be done for it, or the error that refuses it."""
        pace = Pace()
        items: list[Item] = []
        for envelope in (yield from walk_envelopes(content, pace)):
            items.append(envelope if isinstance(envelope, AbideError) else self._item(permission, sender, envelope))
            if pace.is_over():
                yield
                pace.begin()
        return items

    def _item(self, permission: Permission, sender: Sender, envelope: Envelope) -> Item:
        try:
            draft, question = pending = self._enveloped(permission, envelope)
            if question is not None or draft.is_slow:
                return pending
            record = draft.record()
            self._count(draft, sender)
        except AbideError as error:
            return bare(error)
        return record

"""One push: from its request head and body to its answer, however it arrived.

This is the one place that decides. It knows neither sockets nor ASGI. :mod:`~app.web.publish.direct_push` and
:mod:`~app.web.publish.asgi_push` pass on what they receive, and send its answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import structlog

from app.core import data, turns
from app.core.channel import Channel, Registry
from app.core.draft import Draft
from app.core.errors import AbideError, MalformedError, NoRoomError, TooLargeError, bare, of_bug
from app.core.limits.limiter import Limiter
from app.core.message import Record, check_key
from app.core.ports import Meter, Outcome, Publisher, Reply
from app.core.rights.policy import ANONYMOUS, Identity, Question
from app.core.scan import Members
from app.core.turns import Pace, Steps
from app.web.edge.auth import Authenticator
from app.web.edge.problems import ProblemResponse, describe_error
from app.web.publish import body
from app.web.publish.decision import Decision
from app.web.publish.push_head import PushHead

MAX_BODY = 8 * 1024 * 1024
"""The most bytes of a ``POST /push``, even with an array of messages."""

MAX_ITEMS = 1000
"""The most messages in one ``POST /push``."""

_log = structlog.get_logger(__name__)

_ENOUGH = frozenset({"channel", "message"})

_NOWHERE = '"position": null, "offset": null, "epoch": null'
"""The place of a message where the backend has no positions."""

_HEADERS = ((b"content-type", b"application/json"),)
_REPLAYED = (*_HEADERS, (b"idempotency-replayed", b"true"))


Item = tuple[Draft, Question | None]
"""A message of an array, and what the application must be asked about it."""

Settled = Record | AbideError
"""A message of an array that is to be published, or the error that refuses it."""


class Admission(NamedTuple):
    """Permission to publish, given before the body is known."""

    head: PushHead
    identity: Identity | None
    """None if it takes time to tell."""
    peer: str | None
    """The client's address; None if unknown, or if it may be a proxy's."""
    address: str | None
    """The client's address; None if unknown."""
    question: Question | None
    """What the application must be asked first."""
    channel: Channel | None
    """The channel in the path; None if the body names the channel."""
    limit: int
    """The most bytes of the body."""
    request_id: str | None
    """For the log; None if the logging context has it."""


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

    def __call__(self, head: PushHead, peer: str | None, content: bytes, request_id: str) -> Decision:
        """Decide a push whose body is known; ``peer`` is the client's address, None if unknown."""
        admission = self.admit(head, peer, peer, request_id)
        return Decision.of(admission) if isinstance(admission, Reply) else self.decide(admission, content)

    def has_channel(self, head: PushHead) -> bool:
        """Whether the channel in the path exists. True if the body names the channel."""
        return head.channel is None or self._registry.get(head.channel) is not None

    def admit(
        self, head: PushHead, peer: str | None, address: str | None, request_id: str | None = None
    ) -> Admission | Reply:
        """Decide by the head alone whether the caller may publish here; return the refusal if not.

        ``address`` is the client's, which ``peer`` is unless it may be a proxy's.
        """
        if head.unreadable is not None:
            return self.refuse(head.unreadable, request_id)
        try:
            identity = self._authenticator.authenticate(head.caller_from(peer))
            channel, question, limit = None, None, MAX_BODY
            if head.channel is not None:
                channel = self._registry.find(head.channel)
                question = None if identity is None else channel.check_publish(head.channel, identity)
                limit = channel.max_message_size
            elif identity is not None and not self._authenticator.asks:
                identity.check()
        except Exception as error:  # noqa: BLE001 — a bug is answered, too
            return self.refuse(error, request_id)
        if head.unfit is not None:
            return self.refuse(head.unfit, request_id)
        if head.length > limit:
            return self.refuse(too_large(limit), request_id)
        return Admission(head, identity, peer, address, question, channel, limit, request_id)

    def decide(self, admission: Admission, content: bytes) -> Decision:
        """Publish the body of an admitted push; the answer is known when its messages are stored or refused.

        A small body is checked at once. A large body or an array is checked in turns, and counts as held meanwhile. So
        is the body of a caller about whom somebody else must be asked first.
        """
        head, identity, _, _, question, channel, limit, request_id = admission
        if len(content) > limit:
            return Decision.of(self.refuse(too_large(limit), request_id))
        try:
            if identity is not None:
                self._authenticator.check(identity)  # the body may have taken its time
            is_slow = len(content) > data.INLINE or identity is None or question is not None
            if is_slow or (channel is None and data.is_array(content)):
                return self._decide_in_turns(admission, content)
            if channel is None:
                draft, question = self._enveloped(admission, body.as_envelope(head.kind, content))
                if question is not None:
                    return self._decide_in_turns(admission, content)
            else:
                draft = _named(admission, channel, body.as_data(head.kind, content))
            record = draft.record()
            self._count(draft, admission)
            stored = self._publisher.publish([record])
        except Exception as error:  # noqa: BLE001 — a bug is answered, too
            return Decision.of(self.refuse(error, request_id))
        return Decision(stored, partial(self._settle, admission, record))

    def refuse(self, error: Exception, request_id: str | None = None) -> Reply:
        """Count a refusal and return the answer. An unexpected error is logged and answered with 500."""
        if not isinstance(error, AbideError) or error.code == AbideError.code:
            _log.error("push_failed", exc_info=error, **({} if request_id is None else {"request_id": request_id}))
            self._meter.failed("request")
            error = of_bug()
        self._meter.refused(error.code)
        if isinstance(error, NoRoomError):
            self._meter.limited("bodies_held")
        problem = ProblemResponse.of(error)
        headers = tuple([header for header in problem.raw_headers if header[0] != b"content-length"])
        return Reply(problem.status_code, headers, bytes(problem.body))

    # The steps of a decision. Those that return a channel or a draft raise the error that refuses the push.

    def _enveloped(self, admission: Admission, members: Members) -> Item:
        """Return the message of an envelope, and what the application must be asked about it."""
        if members.keys() != _ENOUGH:
            _check_members(members)
        key = admission.head.key
        if "key" in members:
            if key is not None:
                msg = "the push has an Idempotency-Key header and a 'key': send only one of them"
                raise MalformedError(msg)
            key = check_key(data.string(members["key"], "'key'"))
        name = data.string(members["channel"], "'channel'")
        channel, identity = self._registry.find(name), admission.identity or ANONYMOUS
        question = channel.check_publish(name, identity)
        return Draft(channel, name, members["message"].encode(), key, identity.name), question

    def _count(self, draft: Draft, admission: Admission) -> None:
        """Count a message that is about to be published, by the channel's rate limit."""
        if draft.channel.rate_limit is not None:
            self._rates.take(draft.channel, draft.name, draft.publisher, admission.address)

    def _settle(self, admission: Admission, record: Record, stored: asyncio.Future[list[Outcome]]) -> Reply:
        """Return the answer when the message is stored or refused."""
        try:
            (outcome,) = stored.result()
            return self._answer(admission, record, outcome)
        except Exception as error:  # noqa: BLE001 — a bug is answered, too
            return self.refuse(error, admission.request_id)

    def _answer(self, admission: Admission, record: Record, outcome: Outcome) -> Reply:
        """Return the answer to a push of one message; the answer to an envelope repeats the message."""
        if isinstance(outcome, AbideError):
            return self.refuse(outcome, admission.request_id)
        epoch, offset = outcome.position
        # Written by hand, because names and epochs have no character that JSON escapes.
        place = f'"position": "{epoch}:{offset}", "offset": {offset}, "epoch": "{epoch}"' if epoch else _NOWHERE
        content = f'{{"channel": "{record.channel}", {place}'.encode()
        if admission.channel is None:  # the bytes as they came, not as Python would write them
            content += b', "message": ' + record.data
        return Reply(200, _REPLAYED if outcome.replayed else _HEADERS, content + b"}")

    # Large bodies and arrays.

    def _decide_in_turns(self, admission: Admission, content: bytes) -> Decision:
        size = len(content)
        if not self._intake.grow(0, size):
            raise no_room()
        deciding = asyncio.get_running_loop().create_task(self._in_turns(admission, content))
        deciding.add_done_callback(lambda _: self._intake.release(size))
        return Decision(deciding, asyncio.Future.result)

    async def _in_turns(self, admission: Admission, content: bytes) -> Reply:
        kind, channel = admission.head.kind, admission.channel
        try:
            admission = await self._identified(admission)
            if channel is None and data.is_array(content):
                return await self._many(admission, content)
            if channel is None:
                draft, question = self._enveloped(admission, await body.read_envelope(kind, content))
                draft = await self._admitted(admission, draft, question)
            else:
                draft = _named(admission, channel, await body.read_data(kind, content))
            record = await draft.read_record()
            self._count(draft, admission)
            (outcome,) = await self._publisher.publish([record])
            return self._answer(admission, record, outcome)
        except Exception as error:  # noqa: BLE001 — a bug is answered, too
            return self.refuse(error, admission.request_id)

    async def _identified(self, admission: Admission) -> Admission:
        """Return an admission with its identity, and with nothing more to ask about the channel in the path."""
        head, identity, peer, _, question, channel, *_ = admission
        if identity is None:
            identity = await self._authenticator.identify(head.caller_from(peer))
            if channel is not None and head.channel is not None:
                question = channel.check_publish(head.channel, identity)
            elif not self._authenticator.asks:
                identity.check()
        identity = identity._replace(forwarded=identity.forwarded._replace(client=peer))
        return admission._replace(identity=await self._authenticator.admitted(question, identity), question=None)

    async def _admitted(self, admission: Admission, draft: Draft, question: Question | None) -> Draft:
        """Return a message as the application admits its publisher; raise the error that refuses it."""
        identity = await self._authenticator.admitted(question, admission.identity or ANONYMOUS)
        return draft._replace(publisher=identity.name)

    async def _many(self, admission: Admission, content: bytes) -> Reply:
        """Publish an array in order, and not atomically: each item is answered with its result or its problem."""
        if admission.head.key is not None:
            msg = "an Idempotency-Key is for one message: give each item of the array its own 'key'"
            raise MalformedError(msg)
        items = await turns.run(self._items(admission, content))
        records = await self._settled(admission, items)
        good = [record for record in records if isinstance(record, Record)]
        outcomes = iter(await self._publisher.publish(good) if good else ())
        results = [
            _result(record.channel, next(outcomes)) if isinstance(record, Record) else describe_error(record)
            for record in records
        ]
        for result in results:
            if "code" in result:
                self._meter.refused(result["code"])
        return Reply(200, _HEADERS, json.dumps(results).encode())

    async def _settled(self, admission: Admission, items: Sequence[Item | Record | AbideError]) -> list[Settled]:
        """Return the record of each item of an array, or the error that refuses it; all questions are asked at once."""
        drafts = [item for item in items if not isinstance(item, Record | AbideError)]
        rest = iter(await asyncio.gather(*[self._record(admission, *draft) for draft in drafts]))
        return [item if isinstance(item, Record | AbideError) else next(rest) for item in items]

    async def _record(self, admission: Admission, draft: Draft, question: Question | None) -> Settled:
        try:
            draft = await self._admitted(admission, draft, question)
            record = await draft.read_record()
            self._count(draft, admission)
        except AbideError as error:
            return bare(error)
        return record

    def _items(self, admission: Admission, content: bytes) -> Steps[list[Item | Record | AbideError]]:
        """Return the record of each item of an array, what is still to be done for it, or the error that refuses it."""
        pace = Pace()
        items: list[Item | Record | AbideError] = []
        for place in (yield from data.walk_items(content, MAX_ITEMS, pace)):
            try:
                members = yield from data.walk_members(content[place], body.MEMBERS, pace)
                draft, question = self._enveloped(admission, members)
                if draft.is_slow or question is not None:
                    items.append((draft, question))
                    continue
                record = draft.record()
                self._count(draft, admission)
                items.append(record)
            except AbideError as error:
                items.append(bare(error))
        return items


def too_large(limit: int) -> TooLargeError:
    """Return the error for a body with more bytes than its limit."""
    whose = "the limit" if limit == MAX_BODY else "the channel's max_message_size"
    return TooLargeError(f"the body is larger than {whose} of {limit} bytes")


def no_room() -> NoRoomError:
    """Return the error for a body that exceeds the memory for unfinished bodies."""
    return NoRoomError("the server holds too many unfinished messages: send this one again later")


def _named(admission: Admission, channel: Channel, message: bytes) -> Draft:
    """Return the message of a push to the channel that its path names."""
    head = admission.head
    identity = admission.identity or ANONYMOUS
    return Draft(channel, head.channel or channel.name, message, head.key, identity.name)


def _check_members(members: Members) -> None:
    for name in ("channel", "message"):
        if name not in members:
            msg = f'{name!r} is missing: send {{"channel": "…", "message": …}}'
            raise MalformedError(msg)


def _result(name: str, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, AbideError):
        return describe_error(outcome)
    position = outcome.position
    epoch, offset = position if position.epoch else (None, None)
    return {"channel": name, "position": position.text, "offset": offset, "epoch": epoch}

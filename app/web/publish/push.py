"""The push routes: HTTP in, the log's word out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple

import structlog
from starlette.types import Receive, Scope, Send

from app.core import data, turns
from app.core.channel import Channel, Identity, Registry
from app.core.errors import AbideError, MalformedError, NoRoomError, bare
from app.core.message import Published, Record, check_key
from app.core.ports import Intake, Meter, Outcome, Publisher
from app.core.scan import Members
from app.core.turns import Pace, Steps
from app.web.edge.auth import Authenticator
from app.web.edge.problems import ProblemResponse, describe_error
from app.web.edge.request import Incoming
from app.web.publish import body

ENVELOPED, NAMED = "/push", "/push/"
"""The path of pushes whose body names the channel, and how others begin."""

MAX_BODY = 8 * 1024 * 1024
"""Bytes of a ``POST /push``, of an array of messages too."""

MAX_ITEMS = 1000
"""Messages in one ``POST /push``."""

_log = structlog.get_logger(__name__)

_ENOUGH = frozenset({"channel", "message"})
_MEMBERS = _ENOUGH | {"key"}


_HEADERS = ((b"content-type", b"application/json"),)
_REPLAYED = (*_HEADERS, (b"idempotency-replayed", b"true"))


class Answer(NamedTuple):
    """What a push is answered with, if all went well; Content-Length goes without saying."""

    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class Terms(NamedTuple):
    """What the head of a push says about what is in its body."""

    identity: Identity
    kind: str
    """The body's media type."""
    key: str | None
    """The idempotency key; of the one message that it is."""


class Push:
    """Turns requests into records, asks the policy, and waits until they are stored."""

    def __init__(
        self, registry: Registry, authenticator: Authenticator, publisher: Publisher, meter: Meter, intake: Intake
    ) -> None:
        self._registry = registry
        self._authenticator = authenticator
        self._publisher = publisher
        self._meter = meter
        self._intake = intake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a ``POST`` whose path begins with ``/push`` as an ASGI application."""
        try:
            good = await self._answer(scope, receive)
        except AbideError as error:
            refusal = self._refuse(error)
        except Exception:  # noqa: BLE001 — a bug is answered as a problem too
            _log.exception("push_failed")
            self._meter.failed("request")
            refusal = self._refuse(AbideError("the server failed to answer; its log says why"))
        else:
            headers = [(b"content-length", b"%d" % len(good.body)), *good.headers]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": good.body})
            return
        await refusal(scope, receive, send)

    def terms(self, headers: Mapping[str, str], peer: str | None) -> Terms:
        """Read a push's headers, by their names in lower case. Raises what refuses them.

        ``peer`` is the address that it comes from; None where that is not to be looked at.
        """
        identity = self._authenticator.identify(headers, peer)
        return Terms(identity, body.media_type(headers), check_key(headers.get("idempotency-key")))

    def record(self, path: str, terms: Terms, content: bytes) -> Record | None:
        """Return what is to be published of a body that is one message; None of an array of them, and of a large one.

        Raises what refuses it.
        """
        if len(content) > data.INLINE:
            return None
        if path != ENVELOPED:
            channel = self._admit(path.removeprefix(NAMED), terms.identity)
            return _checked(
                channel, path.removeprefix(NAMED), body.as_data(terms.kind, content), terms.key, terms.identity
            )
        body.check_json(terms.kind)
        body.check_untyped(terms.kind, content)
        if data.is_array(content):
            return None
        return self._record(data.members(data.decode(content), _MEMBERS), terms.key, terms.identity)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        request = Incoming(scope, receive, self._intake)
        try:
            return await (self._enveloped(request) if request.path == ENVELOPED else self._named(request))
        finally:
            request.release()

    async def _named(self, request: Incoming) -> Answer:
        """Publish the body as one message to the channel that the path names.

        The answer comes when the message is stored.
        """
        name = request.path.removeprefix(NAMED)
        channel = self._admit(name, self._authenticator.identify(request.headers, request.peer))
        terms = self.terms(request.headers, request.peer)
        body.check_kind(terms.kind)  # before the body is read
        content = await request.body(channel.max_message_size)
        record = _checked(channel, name, await body.read_data(terms.kind, content), terms.key, terms.identity)
        (outcome,) = await self._publisher.publish([record])
        return answer(request.path, record, stored(outcome))

    async def _enveloped(self, request: Incoming) -> Answer:
        """Publish one message, or an array of at most 1000, each with its channel's name.

        An array is published in order, and not atomically: it is answered with 200 and, for
        each item, its result or its problem.
        """
        terms = self.terms(request.headers, request.peer)
        body.check_json(terms.kind)  # before the body is read
        content = await request.body(MAX_BODY)
        body.check_untyped(terms.kind, content)
        if data.is_array(content):
            return await self._many(content, terms.key, terms.identity)
        record = self._record(await data.read_members(content, _MEMBERS), terms.key, terms.identity)
        (outcome,) = await self._publisher.publish([record])
        return answer(request.path, record, stored(outcome))

    async def _many(self, content: bytes, header: str | None, identity: Identity) -> Answer:
        if header is not None:
            msg = "an Idempotency-Key is for one message: give each item of the array its own 'key'"
            raise MalformedError(msg)
        records = await turns.run(self._records(content, identity))
        outcomes = iter(await self._publish([record for record in records if isinstance(record, Record)]))
        results = [
            _result(record.channel, next(outcomes)) if isinstance(record, Record) else describe_error(record)
            for record in records
        ]
        for result in results:
            if "code" in result:
                self._meter.refused(result["code"])
        return Answer(_HEADERS, json.dumps(results).encode())

    def _refuse(self, error: AbideError) -> ProblemResponse:
        self._meter.refused(error.code)
        if isinstance(error, NoRoomError):
            self._meter.limited("bodies_held")
        return ProblemResponse.of(error)

    async def _publish(self, records: Sequence[Record]) -> list[Outcome]:
        return await self._publisher.publish(records) if records else []

    def _records(self, content: bytes, identity: Identity) -> Steps[list[Record | AbideError]]:
        """Return what is to be published of each item of an array, or why it cannot be."""
        pace = Pace()
        records: list[Record | AbideError] = []
        for place in (yield from data.walk_items(content, MAX_ITEMS, pace)):
            try:
                members = yield from data.walk_members(content[place], _MEMBERS, pace)
                records.append(self._record(members, None, identity))
            except AbideError as error:
                records.append(bare(error))
        return records

    def _admit(self, name: str, identity: Identity) -> Channel:
        channel = self._registry.find(name)
        channel.check_publish(identity)
        return channel

    def _record(self, members: Members, header: str | None, identity: Identity) -> Record:
        if members.keys() != _ENOUGH:
            _check_members(members)
        if header is not None and "key" in members:
            msg = "there is an Idempotency-Key header and a 'key' too: send one of them"
            raise MalformedError(msg)
        key = check_key(data.string(members["key"], "'key'")) if "key" in members else header
        name = data.string(members["channel"], "'channel'")
        return _checked(self._admit(name, identity), name, members["message"].encode(), key, identity)


def _checked(channel: Channel, name: str, message: bytes, key: str | None, identity: Identity) -> Record:
    channel.check_size(message)
    return Record(name, message, key, identity.name)


def _check_members(members: Members) -> None:
    for name in ("channel", "message"):
        if name not in members:
            msg = f'{name!r} is missing: send {{"channel": "…", "message": …}}'
            raise MalformedError(msg)


def answer(path: str, record: Record, published: Published) -> Answer:
    """Return the answer to a push of one message; that of an envelope has the message in it."""
    epoch, offset = published.position
    # Put together by hand: names and epochs have no character that JSON would escape.
    name = record.channel
    content = f'{{"channel": "{name}", "position": "{epoch}:{offset}", "offset": {offset}, "epoch": "{epoch}"'.encode()
    if path == ENVELOPED:  # as it came, not as Python would write it
        content += b', "message": ' + record.data
    return Answer(_REPLAYED if published.replayed else _HEADERS, content + b"}")


def stored(outcome: Outcome) -> Published:
    """Return where the message stands; raise what became of it if it does not."""
    if isinstance(outcome, AbideError):
        raise copy(outcome)  # the outcome may be others', too
    return outcome


def _result(name: str, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, AbideError):
        return describe_error(outcome)
    position = outcome.position
    return {"channel": name, "position": str(position), "offset": position.offset, "epoch": position.epoch}

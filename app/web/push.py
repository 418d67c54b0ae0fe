"""The push routes: HTTP in, the log's word out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import structlog
from starlette.types import Receive, Scope, Send

from app.core import data
from app.core.channel import Identity, Registry
from app.core.errors import AbideError, MalformedError
from app.core.message import Published, Record
from app.core.ports import Meter, Outcome, Publisher
from app.web import body
from app.web.auth import Authenticator
from app.web.incoming import Incoming
from app.web.problems import ProblemResponse, describe_error

ENVELOPED, NAMED = "/push", "/push/"
"""The path of pushes whose body names the channel, and how others begin."""

MAX_BODY = 8 * 1024 * 1024
"""Bytes of a ``POST /push``, of an array of messages too."""

MAX_ITEMS = 1000
"""Messages in one ``POST /push``."""

_log = structlog.get_logger(__name__)

_KEY = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)
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

    def __init__(self, registry: Registry, authenticator: Authenticator, publisher: Publisher, meter: Meter) -> None:
        self._registry = registry
        self._authenticator = authenticator
        self._publisher = publisher
        self._meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a ``POST`` whose path begins with ``/push`` as an ASGI application."""
        request = Incoming(scope, receive)
        try:
            good = await (self._enveloped(request) if request.path == ENVELOPED else self._named(request))
        except AbideError as error:
            refusal = self._refuse(error)
        except Exception:  # noqa: BLE001 — a bug is answered as a problem too
            _log.exception("push_failed")
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
        return _terms(self._authenticator.identify(headers, peer), headers)

    def record(self, path: str, terms: Terms, content: bytes) -> Record | None:
        """Return what is to be published of a body that is one message; None of an array of them.

        Raises what refuses it.
        """
        if path != ENVELOPED:
            return self._named_record(path.removeprefix(NAMED), terms, content)
        text = self._text(terms, content)
        return None if data.is_array(text) else self._record(text, terms.key, terms.identity)

    async def _named(self, request: Incoming) -> Answer:
        """Publish the body as one message to the channel that the path names.

        The answer comes when the message is stored.
        """
        name = request.path.removeprefix(NAMED)
        identity = self._authenticator.identify(request.headers, request.peer)
        channel = self._registry.find(name)
        channel.check_publish(identity)
        terms = _terms(identity, request.headers)
        record = self._named_record(name, terms, await request.body(channel.max_message_size))
        (outcome,) = await self._publisher.publish([record])
        return answer(request.path, record, stored(outcome))

    async def _enveloped(self, request: Incoming) -> Answer:
        """Publish one message, or an array of at most 1000, each with its channel's name.

        An array is published in order, and not atomically: it is answered with 200 and, for
        each item, its result or its problem.
        """
        terms = self.terms(request.headers, request.peer)
        if terms.kind != "application/json":  # before the body is read
            raise body.unsupported(terms.kind, "application/json")
        text = self._text(terms, await request.body(MAX_BODY))
        if data.is_array(text):
            return await self._many(text, terms.key, terms.identity)
        record = self._record(text, terms.key, terms.identity)
        (outcome,) = await self._publisher.publish([record])
        return answer(request.path, record, stored(outcome))

    async def _many(self, text: str, header: str | None, identity: Identity) -> Answer:
        if header is not None:
            msg = "an Idempotency-Key is for one message: give each item of the array its own 'key'"
            raise MalformedError(msg)
        items = data.items(text)
        if len(items) > MAX_ITEMS:
            msg = f"the array has {len(items)} items: send at most {MAX_ITEMS} at once"
            raise MalformedError(msg)
        records = [self._try_record(item, identity) for item in items]
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
        return ProblemResponse.of(error)

    async def _publish(self, records: Sequence[Record]) -> list[Outcome]:
        return await self._publisher.publish(records) if records else []

    def _try_record(self, text: str, identity: Identity) -> Record | AbideError:
        try:
            return self._record(text, None, identity)
        except AbideError as error:
            return error

    def _text(self, terms: Terms, content: bytes) -> str:
        if terms.kind != "application/json":
            raise body.unsupported(terms.kind, "application/json")
        return data.decode(content)

    def _named_record(self, name: str, terms: Terms, content: bytes) -> Record:
        channel = self._registry.find(name)
        channel.check_publish(terms.identity)
        message = body.as_data(terms.kind, content)
        channel.check_size(message)
        return Record(name, message, terms.key)

    def _record(self, text: str, header: str | None, identity: Identity) -> Record:
        members = data.members(text)
        if members.keys() != _ENOUGH:
            _check_members(members)
        if header is not None and "key" in members:
            msg = "there is an Idempotency-Key header and a 'key' too: send one of them"
            raise MalformedError(msg)
        key = check_key(data.string(members["key"], "'key'")) if "key" in members else header
        channel = self._registry.find(name := data.string(members["channel"], "'channel'"))
        channel.check_publish(identity)
        message = members["message"].encode()
        channel.check_size(message)
        return Record(name, message, key)


def _terms(identity: Identity, headers: Mapping[str, str]) -> Terms:
    return Terms(identity, body.media_type(headers), check_key(headers.get("idempotency-key")))


def _check_members(members: Mapping[str, str]) -> None:
    for name in ("channel", "message"):
        if name not in members:
            msg = f'{name!r} is missing: send {{"channel": "…", "message": …}}'
            raise MalformedError(msg)
    if unknown := members.keys() - _MEMBERS:
        msg = f"unknown member {min(unknown)!r}: a message has 'channel', 'message' and maybe 'key'"
        raise MalformedError(msg)


def check_key(key: str | None) -> str | None:
    """Return an idempotency key; raise :class:`MalformedError` unless it is 1 to 255 visible ASCII characters."""
    if key is not None and not _KEY.fullmatch(key):
        msg = "an idempotency key is 1 to 255 visible ASCII characters"
        raise MalformedError(msg)
    return key


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
        raise outcome
    return outcome


def _result(name: str, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, AbideError):
        return describe_error(outcome)
    position = outcome.position
    return {"channel": name, "position": str(position), "offset": position.offset, "epoch": position.epoch}

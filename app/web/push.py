"""The push routes: HTTP in, the log's word out."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

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

MAX_BODY = 8 * 1024 * 1024
"""Bytes of a ``POST /push``, of an array of messages too."""

MAX_ITEMS = 1000
"""Messages in one ``POST /push``."""

_log = structlog.get_logger(__name__)

_KEY = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)
_MEMBERS = frozenset({"channel", "message", "key"})


class _Answer(NamedTuple):
    """What a push is answered with, if all went well."""

    headers: list[tuple[bytes, bytes]]
    body: bytes

    @classmethod
    def of(cls, body: bytes) -> Self:
        return cls([(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")], body)


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
            answer = await (self._enveloped(request) if request.path == "/push" else self._named(request))
        except AbideError as error:
            refusal = self._refuse(error)
        except Exception:  # noqa: BLE001 — a bug is answered as a problem too
            _log.exception("push_failed")
            refusal = self._refuse(AbideError("the server failed to answer; its log says why"))
        else:
            await send({"type": "http.response.start", "status": 200, "headers": answer.headers})
            await send({"type": "http.response.body", "body": answer.body})
            return
        await refusal(scope, receive, send)

    async def _named(self, request: Incoming) -> _Answer:
        """Publish the body as one message to the channel that the path names.

        The answer comes when the message is stored.
        """
        name = request.path.removeprefix("/push/")
        channel = self._registry.find(name)
        channel.check_publish(self._authenticator.identify(request.headers))
        key = check_key(request.headers.get("idempotency-key"))
        kind = body.media_type(request.headers)
        message = body.as_data(kind, await request.body(channel.max_message_size))
        channel.check_size(message)
        (outcome,) = await self._publisher.publish([Record(name, message, key)])
        return _answer(name, None, _stored(outcome))

    async def _enveloped(self, request: Incoming) -> _Answer:
        """Publish one message, or an array of at most 1000, each with its channel's name.

        An array is published in order, and not atomically: it is answered with 200 and, for
        each item, its result or its problem.
        """
        identity = self._authenticator.identify(request.headers)
        kind = body.media_type(request.headers)
        if kind != "application/json":
            raise body.unsupported(kind, "application/json")
        header = check_key(request.headers.get("idempotency-key"))
        text = data.decode(await request.body(MAX_BODY))
        if data.is_array(text):
            return await self._many(text, header, identity)
        record = self._record(text, header, identity)
        (outcome,) = await self._publisher.publish([record])
        return _answer(record.channel, record.data, _stored(outcome))

    async def _many(self, text: str, header: str | None, identity: Identity) -> _Answer:
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
        return _Answer.of(json.dumps(results).encode())

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

    def _record(self, text: str, header: str | None, identity: Identity) -> Record:
        members = data.members(text)
        for name in ("channel", "message"):
            if name not in members:
                msg = f'{name!r} is missing: send {{"channel": "…", "message": …}}'
                raise MalformedError(msg)
        if unknown := members.keys() - _MEMBERS:
            msg = f"unknown member {min(unknown)!r}: a message has 'channel', 'message' and maybe 'key'"
            raise MalformedError(msg)
        if header is not None and "key" in members:
            msg = "there is an Idempotency-Key header and a 'key' too: send one of them"
            raise MalformedError(msg)
        key = check_key(data.string(members["key"], "'key'")) if "key" in members else header
        channel = self._registry.find(name := data.string(members["channel"], "'channel'"))
        channel.check_publish(identity)
        message = members["message"].encode()
        channel.check_size(message)
        return Record(name, message, key)


def check_key(key: str | None) -> str | None:
    """Return an idempotency key; raise :class:`MalformedError` unless it is 1 to 255 visible ASCII characters."""
    if key is not None and not _KEY.fullmatch(key):
        msg = "an idempotency key is 1 to 255 visible ASCII characters"
        raise MalformedError(msg)
    return key


def _stored(outcome: Outcome) -> Published:
    if isinstance(outcome, AbideError):
        raise outcome
    return outcome


def _result(name: str, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, AbideError):
        return describe_error(outcome)
    position = outcome.position
    return {"channel": name, "position": str(position), "offset": position.offset, "epoch": position.epoch}


def _answer(name: str, message: bytes | None, published: Published) -> _Answer:
    epoch, offset = published.position
    # Put together by hand: names and epochs have no character that JSON would escape.
    content = f'{{"channel": "{name}", "position": "{epoch}:{offset}", "offset": {offset}, "epoch": "{epoch}"'.encode()
    if message is not None:  # as it came, not as Python would write it
        content += b', "message": ' + message
    answer = _Answer.of(content + b"}")
    if published.replayed:
        answer.headers.append((b"idempotency-replayed", b"true"))
    return answer

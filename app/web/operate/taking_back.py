"""``POST /revoke`` and ``POST /disconnect``: take back tokens, and close connections, on all workers and machines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from app.access import entries
from app.access.claims import LONGEST_SUBJECT
from app.access.entries import Disconnection, Revocation
from app.access.storing import store
from app.core import data
from app.core.channel import NAME
from app.core.data import SHOWN
from app.core.errors import MalformedError
from app.core.ports import Intake, Publisher
from app.core.rights.policy import Access
from app.core.scan import Members
from app.web.documents.openapi import refusal
from app.web.documents.schemas import Schema
from app.web.edge.auth import Authenticator
from app.web.edge.caller import see_request
from app.web.publish import body
from app.web.publish.asgi_push import HeldBody

Revoke = Callable[[Revocation, float], None]
"""Refuses tokens in this worker since a time, before the log tells all workers."""

AHEAD_SECONDS = 3600
"""How far ahead ``before`` may be, since clocks differ."""

_LARGEST_BODY = 4096
_REFUSALS = (400, 401, 403, 413, 415, 503)

_SUB: Schema = {"type": "string", "minLength": 1, "maxLength": LONGEST_SUBJECT, "examples": ["42"]}
_JTI: Schema = {**_SUB, "examples": ["9f2c"]}
_BEFORE: Schema = {
    "type": "number",
    "minimum": 0,
    "description": "Tokens issued before are refused (`iat`): seconds since the Unix epoch; now if it is left out",
}
_CHANNEL: Schema = {"type": ["string", "null"], "pattern": f"^{NAME.pattern}$", "examples": ["chat.7"]}


class TakingBack:
    """The two routes."""

    def __init__(self, authenticator: Authenticator, publisher: Publisher, intake: Intake, revoke: Revoke) -> None:
        self._authenticator = authenticator
        self._publisher = publisher
        self._intake = intake
        self._revoke = revoke

    async def revoke(self, request: Request) -> Response:
        """Refuse from now on the tokens of a subject that were issued before, or one token, and close what they opened.

        The answer comes when that is stored for all workers and machines.
        """
        entry = _revocation(await self._members(request, {"sub", "jti", "before"}))
        await store(self._publisher, entries.record(entry))
        self._revoke(entry, time.time())
        if entry.jti is not None:
            return JSONResponse({"jti": entry.jti})
        return JSONResponse({"sub": entry.sub, "before": entry.before})

    async def disconnect(self, request: Request) -> Response:
        """Close the connections of a subject, or its subscriptions to one channel. Its tokens stay good.

        The answer comes when that is stored for all workers and machines.
        """
        entry = _disconnection(await self._members(request, {"sub", "channel"}))
        await store(self._publisher, entries.record(entry))
        return JSONResponse(entry._asdict())

    async def _members(self, request: Request, names: Collection[str]) -> Members:
        """Return the members of the body that are not null, if the caller may send it."""
        (await self._authenticator.identify(see_request(request))).check_may_revoke()
        kind = body.media_type(request.headers)
        body.check_json(kind)
        held = HeldBody(request.receive, self._intake)
        try:
            content = await held.read(_LARGEST_BODY)
        finally:
            held.release()
        body.check_untyped(kind, content)
        members = data.members(data.decode(content), names)
        return {name: text for name, text in members.items() if text != "null"}


def add_taking_back_routes(app: FastAPI, routes: TakingBack, check_running: Callable[[], None]) -> None:
    """Add the routes; ``check_running`` raises while the application is not started."""
    one: Schema = {"type": "object", "additionalProperties": False}
    revoked = [
        {**one, "required": ["sub"], "properties": {"sub": _SUB, "before": _BEFORE}},
        {**one, "required": ["jti"], "properties": {"jti": _JTI}},
    ]
    closed = {**one, "required": ["sub"], "properties": {"sub": _SUB, "channel": _CHANNEL}}
    running = [Depends(check_running)]
    app.add_api_route(
        "/revoke", routes.revoke, dependencies=running, **_documented("revoke", "Take back tokens", {"anyOf": revoked})
    )
    app.add_api_route(
        "/disconnect", routes.disconnect, dependencies=running, **_documented("disconnect", "Close connections", closed)
    )


def _documented(name: str, summary: str, schema: Schema) -> dict[str, Any]:
    content = {"application/json": {"schema": schema}}
    stored = {"description": "Stored: what was taken back, or closed", "content": content}
    return {
        "methods": ["POST"],
        "tags": ["access"],
        "summary": summary,
        "operation_id": name,
        "responses": {200: stored, **{status: refusal(status) for status in _REFUSALS}},
        "openapi_extra": {"security": [{Access.KEY: []}], "requestBody": {"required": True, "content": content}},
    }


def _revocation(members: Members) -> Revocation:
    if ("sub" in members) is ("jti" in members):
        msg = "name either the 'sub' whose tokens to take back, or the 'jti' of one token"
        raise MalformedError(msg)
    if "sub" in members:
        return Revocation(_claim(members, "sub"), _before(members.get("before")))
    if "before" in members:
        msg = "'before' goes with 'sub': a token that is named by its 'jti' is taken back whenever it was issued"
        raise MalformedError(msg)
    return Revocation(jti=_claim(members, "jti"))


def _disconnection(members: Members) -> Disconnection:
    if "sub" not in members:
        msg = "name the 'sub' whose connections to close"
        raise MalformedError(msg)
    sub = _claim(members, "sub")
    if "channel" not in members:
        return Disconnection(sub)
    channel = data.string(members["channel"], "'channel'")
    if not NAME.fullmatch(channel):
        msg = f"'channel' is {channel[:SHOWN]!r}, which is no channel's name: leave it out to close all channels"
        raise MalformedError(msg)
    return Disconnection(sub, channel)


def _claim(members: Members, name: str) -> str:
    value = data.string(members[name], f"'{name}'")
    if not 1 <= len(value) <= LONGEST_SUBJECT:
        msg = f"'{name}' has {len(value)} characters: a token's has 1 to {LONGEST_SUBJECT}"
        raise MalformedError(msg)
    return value


def _before(text: str | None) -> float:
    """Return a number of seconds; now for None."""
    now = time.time()
    if text is None:
        return now
    try:
        before = float(text)
    except ValueError:
        before = math.nan
    if not 0 <= before < math.inf:
        msg = f"'before' must be a number of seconds since the Unix epoch, not {text[:SHOWN]}"
        raise MalformedError(msg)
    if before > now + AHEAD_SECONDS:
        msg = f"'before' is {text[:SHOWN]}, more than an hour ahead: send seconds since the Unix epoch, up to now"
        raise MalformedError(msg)
    return before

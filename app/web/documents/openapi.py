"""The OpenAPI document, which shows each channel with its own paths.

FastAPI describes the routes that it serves itself. This module describes the routes of the channels, which go past
FastAPI (``app/web/routes.py``).
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from app.core.channel import NAME, PARAMETER, Channel
from app.core.resume import EARLIEST
from app.core.rights.policy import Access, Policy
from app.web.documents import schemas
from app.web.documents.embedded import EmbeddedSchemas
from app.web.documents.schemas import Schema
from app.web.edge.problems import Problem
from app.web.publish.array import MAX_ITEMS
from app.web.subscribe import sse
from app.web.subscribe.history import DEFAULT_LIMIT, MAX_LIMIT, MAX_WAIT

SUMMARY = "Realtime channels: push over HTTP, subscribe over WebSocket"
DESCRIPTION = "[asyncapi.json](asyncapi.json) describes the WebSocket API."
SERVERS = [{"url": "."}]
"""Relative to the document, so it is right under any path of a proxy or an outer application."""

_REFUSALS = {
    400: "Malformed",
    401: "The key is missing or wrong",
    403: "Not allowed for this caller",
    404: "Unknown channel",
    406: "The request asks for neither an event stream nor a WebSocket",
    409: "The idempotency key was used for another message",
    413: "Too large",
    415: "Content type cannot be published",
    422: "The message does not fit the schema of its channel",
    429: "Too many messages of this publisher, or too many connections of this address: try again later",
    503: "Unavailable: try again later",
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait before the next try", "schema": {"type": "integer"}}}
_HEADERS = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}
KEY_OR_NOTHING: list[dict[str, Any]] = [{}, {Access.KEY: []}]
"""The credentials of operators: a key, or none for requests from loopback."""

_PUSH_REFUSALS = (400, 401, 403, 404, 409, 413, 415, 422, 429, 503)
_READ_REFUSALS = (400, 401, 403, 404, 429, 503)
_STREAM_REFUSALS = (400, 401, 403, 404, 406, 429, 503)  # 503 for too many connections: it waits for the backend

_STORED: Schema = {
    "type": "object",
    "required": ["channel", "position", "offset", "epoch"],
    "properties": {
        "channel": {"type": "string", "examples": ["lebowski"]},
        "position": schemas.POSITION,
        "offset": schemas.OFFSET,
        "epoch": {"type": "string"},
    },
}
_HISTORY: Schema = {
    "type": "object",
    "required": ["messages", "epoch", "first", "last", "complete"],
    "properties": {
        "messages": {
            "description": "Oldest first; there are more to read if the offset of the last one is below `last`",
            "type": "array",
            "maxItems": MAX_LIMIT,
            "items": {
                "type": "object",
                "required": ["position", "offset", "time", "data"],
                "properties": {
                    "position": schemas.POSITION,
                    "offset": schemas.OFFSET,
                    "time": schemas.TIME,
                    "data": schemas.DATA,
                },
            },
        },
        "epoch": {"type": "string"},
        "first": {"description": "Offset of the oldest stored message", **schemas.OFFSET},
        "last": {"description": "Offset of the newest message", **schemas.OFFSET},
        "complete": {
            "description": "Whether no message is missing between `since` and the first returned message",
            "type": "boolean",
        },
    },
}
_ENVELOPE: Schema = {
    "type": "object",
    "required": ["channel", "message"],
    "additionalProperties": False,
    "properties": {
        "channel": {"type": "string", "pattern": f"^{NAME.pattern}$", "examples": ["lebowski"]},
        "message": {"description": "Any JSON", "examples": ["hello"]},
        "key": schemas.KEY,
    },
}
_PARAMETERS: dict[str, Schema] = {
    "IdempotencyKey": {"name": "Idempotency-Key", "in": "header", "schema": schemas.KEY},
    "LastEventId": {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "Sent by EventSource. It overrides the query; an id that is not from this server leads to a gap",
        "schema": {"type": "string"},
    },
    "LastEventIdOfPolyfills": {
        "name": "lastEventId",
        "in": "query",
        "description": "For clients that cannot send the header. It overrides `since` and `last`",
        "schema": {"type": "string"},
    },
    "Heartbeat": {"name": "heartbeat", "in": "query", "schema": schemas.HEARTBEAT},
    "Since": {"name": "since", "in": "query", "schema": schemas.SINCE},
    "SinceOldest": {"name": "since", "in": "query", "schema": schemas.SINCE | {"default": EARLIEST}},
    "Last": {"name": "last", "in": "query", "schema": schemas.LAST},
    "Limit": {
        "name": "limit",
        "in": "query",
        "schema": {"type": "integer", "minimum": 0, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
    },
    "Wait": {
        "name": "wait",
        "in": "query",
        "description": "Seconds to wait for a message if there is none yet (long-polling)",
        "schema": {"type": "integer", "minimum": 0, "maximum": MAX_WAIT, "default": 0},
    },
}


def refusal(status: int) -> dict[str, Any]:
    """Return the response object of a refusal with this status."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": _REFUSALS[status],
        "headers": _HEADERS.get(status, {}),
        "content": {"application/problem+json": {"schema": schema}},
    }


class Documented(FastAPI):
    """A FastAPI application whose OpenAPI document shows every channel."""

    def __init__(self, channels: tuple[Channel, ...], **options: Any) -> None:  # noqa: ANN401 — FastAPI's own
        super().__init__(summary=SUMMARY, description=DESCRIPTION, servers=SERVERS, **options)
        self._channels = channels

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, which the first call makes."""
        if self.openapi_schema is None:
            document = super().openapi()
            embedded = EmbeddedSchemas(self._channels)
            document["paths"] = {**_paths(self._channels, embedded), **document["paths"]}
            for kind, components in _components(embedded).items():
                document["components"].setdefault(kind, {}).update(components)
        return super().openapi()


def merged(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Return ``theirs`` with the paths and components of ``ours`` added."""
    components = ours["components"], theirs.get("components", {})
    kinds = dict.fromkeys((*components[0], *components[1]))
    return {
        **theirs,
        "paths": {**ours["paths"], **theirs["paths"]},
        "components": {kind: components[0].get(kind, {}) | components[1].get(kind, {}) for kind in kinds},
    }


def _components(embedded: EmbeddedSchemas) -> dict[str, dict[str, Any]]:
    ours = {"Problem": Problem.model_json_schema(), "Stored": _STORED, "History": _HISTORY}
    return {
        "schemas": {**ours, **embedded.components()},
        "parameters": _PARAMETERS,
        "responses": {
            **{str(status): refusal(status) for status in _REFUSALS},
            "Stored": _stored({"$ref": "#/components/schemas/Stored"}),
            "History": _answer("Stored messages", "application/json", {"$ref": "#/components/schemas/History"}),
            "Stream": _answer(
                "An endless stream of events. `id:` is the position, `data:` the message. `event: gap` reports missing "
                "messages, and `event: closed` ends the stream. While the backend is unavailable it has only comments",
                sse.MEDIA_TYPE,
                {"type": "string"},
            ),
        },
        "securitySchemes": schemas.SECURITY_SCHEMES,
    }


def _answer(description: str, media_type: str, schema: Schema) -> dict[str, Any]:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _stored(schema: Schema) -> dict[str, Any]:
    replayed = {"description": "`true` if this idempotency key was used before", "schema": {"type": "string"}}
    return _answer("Stored", "application/json", schema) | {"headers": {"Idempotency-Replayed": replayed}}


def _paths(channels: tuple[Channel, ...], embedded: EmbeddedSchemas) -> dict[str, Any]:
    paths: dict[str, Any] = {"/push": {"post": _push()}}
    for channel in channels:
        shared = {"parameters": _family_parameter(channel)} if channel.is_family else {}
        paths |= {
            f"/push/{channel.name}": {**shared, "post": _push_to(channel, embedded)},
            f"/{channel.name}": {**shared, "get": _subscribe(channel)},
            f"/{channel.name}/history": {**shared, "get": _read_history(channel)},
        }
    return paths


def _push() -> dict[str, Any]:
    array = {"type": "array", "items": _ENVELOPE, "maxItems": MAX_ITEMS}
    stored: Schema = {"$ref": "#/components/schemas/Stored"}
    problem: Schema = {"$ref": "#/components/schemas/Problem"}
    one = {"allOf": [stored, {"required": ["message"], "properties": {"message": schemas.DATA}}]}
    return {
        "tags": ["push"],
        "operationId": "push",
        "summary": "Publish one message or an array of messages",
        "description": (
            f"An array has at most {MAX_ITEMS} items. They are published in order, but not atomically: the answer is "
            "200, with the result or the problem of each item. The idempotency key of a single message is in the "
            "header or in `key`, not in both. In an array, each item has its own `key`."
        ),
        "security": [{}, *({scheme: []} for scheme in schemas.SECURITY_SCHEMES)],
        "parameters": _refer("IdempotencyKey"),
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"anyOf": [_ENVELOPE, array]}}}},
        "responses": _responses(
            _stored({"anyOf": [one, {"type": "array", "items": {"anyOf": [stored, problem]}}]}), _PUSH_REFUSALS
        ),
    }


def _push_to(channel: Channel, embedded: EmbeddedSchemas) -> dict[str, Any]:
    free: dict[str, Any] = {"schema": {"description": "Any JSON"}, "example": "hello"}
    content = {
        "application/json": free if channel.schema is None else {"schema": embedded.data(channel)},
        "text/plain": {"schema": {"type": "string"}},
    }
    return {
        "tags": ["push"],
        "operationId": f"push_{channel.name}",
        "summary": f"Publish to {channel.name}",
        "description": (
            "The body is the message. The answer comes when the message is stored. "
            f"Subscribers connect a WebSocket to `/{channel.name}`.\n\n{schemas.policy(channel)}"
        ),
        **_security(channel.publish),
        "parameters": _refer("IdempotencyKey"),
        "requestBody": {"required": True, "content": content},
        "responses": _responses({"$ref": "#/components/responses/Stored"}, _PUSH_REFUSALS),
    }


def _subscribe(channel: Channel) -> dict[str, Any]:
    return {
        "tags": ["subscribe"],
        "operationId": f"subscribe_{channel.name}",
        "summary": f"Subscribe to {channel.name} by Server-Sent Events",
        "description": f"Needs `Accept: {sse.MEDIA_TYPE}`.\n\n{schemas.policy(channel)}",
        **_security(channel.subscribe),
        "parameters": _refer("LastEventId", "LastEventIdOfPolyfills", "Since", "Last", "Heartbeat"),
        "responses": _responses({"$ref": "#/components/responses/Stream"}, _STREAM_REFUSALS),
    }


def _read_history(channel: Channel) -> dict[str, Any]:
    return {
        "tags": ["history"],
        "operationId": f"history_{channel.name}",
        "summary": f"Read the history of {channel.name}, or wait for a new message",
        **_security(channel.subscribe),
        "parameters": _refer("SinceOldest", "Limit", "Wait"),
        "responses": _responses({"$ref": "#/components/responses/History"}, _READ_REFUSALS),
    }


def _family_parameter(family: Channel) -> list[dict[str, Any]]:
    schema = {"type": "string", "pattern": f"^{PARAMETER}$"}
    return [{"name": schemas.parameter(family), "in": "path", "required": True, "schema": schema}]


def _security(policy: Policy) -> dict[str, Any]:
    schemes: list[dict[str, Any]] = [{scheme: []} for scheme in schemas.schemes(policy)]
    is_optional = any(entry in policy for entry in (Access.OPERATORS, Access.ASK))
    return {"security": [{}, *schemes] if is_optional else schemes} if schemes else {}


def _refer(*parameters: str) -> list[dict[str, str]]:
    return [{"$ref": f"#/components/parameters/{name}"} for name in parameters]


def _responses(success: dict[str, Any], refusals: tuple[int, ...]) -> dict[str, Any]:
    return {"200": success} | {str(status): {"$ref": f"#/components/responses/{status}"} for status in refusals}

"""``/asyncapi.json``: the messages on the WebSockets, in AsyncAPI 3.0.

The document takes the server's view: it *sends* what subscribers get, and *receives* what they publish.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import quote

from app.core.channel import PARAMETER, Channel
from app.core.message import MAX_OFFSET
from app.core.resume import Reason
from app.core.rights.policy import Access, Policy
from app.web.documents import schemas
from app.web.documents.embedded import EmbeddedSchemas
from app.web.documents.schemas import Schema
from app.web.subscribe.v1 import MAX_ID, SUBPROTOCOL
from app.web.subscribe.websocket import HEARTBEAT_SECONDS
from app.wire.close_codes import NEVER_SENT, CloseCode

Object = dict[str, Any]


class _Frame(NamedTuple):
    """One kind of JSON object of ``abide.v1``; ``members`` leaves out ``type``."""

    summary: str
    members: dict[str, Schema]
    optional: tuple[str, ...] = ()


_ID: Schema = {
    "type": ["string", "integer"],
    "maxLength": MAX_ID,
    "minimum": -MAX_OFFSET,
    "maximum": MAX_OFFSET,
    "description": "Chosen by the client and repeated in the answer; an integer has no fraction and no exponent",
}
_NAME: Schema = {"type": "string", "examples": ["lebowski"]}

_SENT = {
    "subscribed": _Frame(
        "The subscription has begun; the next message is the one after `position`",
        {
            "id": _ID,
            "channel": _NAME,
            "position": schemas.POSITION,
            "resumed": {
                "type": "boolean",
                "description": "Whether `since` was a position and no message after it is missing",
            },
        },
        optional=("id",),
    ),
    "gap": _Frame(
        "The messages between `after` and `next` cannot be delivered; messages from `next` on follow",
        {
            "channel": _NAME,
            "after": {"type": "string", "description": "The last position of the subscriber"},
            "next": schemas.POSITION,
            "reason": {"type": "string", "enum": [*Reason]},
        },
    ),
    "message": _Frame(
        "One message of a channel",
        {"channel": _NAME, "position": schemas.POSITION, "time": schemas.TIME, "data": schemas.DATA},
    ),
    "heartbeat": _Frame(
        "The server is alive; the next heartbeat comes within `seconds`. Sent only if the query asks for it",
        {"seconds": {"type": "integer", "examples": [HEARTBEAT_SECONDS]}},
    ),
    "published": _Frame("The published message is stored", {"id": _ID, "position": schemas.POSITION}),
    "unsubscribed": _Frame(
        "A subscription has ended: `code` is 1000 after a request to unsubscribe, else the close code for the reason",
        {"id": _ID, "channel": _NAME, "code": {"type": "integer", "examples": [CloseCode.NORMAL.value]}},
        optional=("id",),
    ),
    "error": _Frame(
        "A request was refused; the socket stays open",
        {
            "id": _ID,
            "channel": _NAME,
            "code": {"type": "string", "description": "Stable", "examples": ["unknown_channel"]},
            "status": {"type": "integer", "description": "The HTTP status of this error", "examples": [404]},
            "message": {"type": "string"},
            "pointer": {
                "type": "string",
                "description": "Only with `schema_mismatch`: the JSON pointer of what does not fit",
            },
        },
        optional=("id", "channel", "pointer"),
    ),
}
_RECEIVED = {
    "publish": _Frame(
        "Publish `data`; `channel` is optional on a channel's own socket",
        {"id": _ID, "channel": _NAME, "data": schemas.DATA, "key": schemas.KEY},
        optional=("channel", "key"),
    ),
    "subscribe": _Frame(
        "Subscribe to one more channel",
        {"id": _ID, "channel": _NAME, "since": schemas.SINCE, "last": schemas.LAST},
        optional=("id", "since", "last"),
    ),
    "unsubscribe": _Frame("End a subscription", {"id": _ID, "channel": _NAME}, optional=("id",)),
}
_ANSWERS = {"publish": "published", "subscribe": "subscribed", "unsubscribe": "unsubscribed"}

_PLAIN = "plain"
_BEAT = {"heartbeat": schemas.HEARTBEAT}
_QUERIES: dict[str, Schema] = {
    "channel": {"type": "object", "properties": {"since": schemas.SINCE, "last": schemas.LAST, **_BEAT}},
    "socket": {"type": "object", "properties": _BEAT},
}
"""The query parameters of a channel's own socket, and of the socket for any number of channels."""

_SOCKET = "ws"
"""The id of ``/ws``. The name is reserved, so no channel has it."""


def describe(channels: tuple[Channel, ...], version: str, root_path: str = "") -> Object:
    """Return the AsyncAPI document of these channels."""
    operations, embedded = _socket_operations(), EmbeddedSchemas(channels)
    for channel in channels:
        operations |= _operations(channel)
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Abide", "version": version, "description": _description()},
        "defaultContentType": "application/json",
        "servers": {protocol: _server(protocol, root_path) for protocol in ("ws", "wss")},
        "channels": {_SOCKET: _socket()} | {channel.name: _channel(channel, embedded) for channel in channels},
        "operations": operations,
        "components": {
            "schemas": embedded.components(),
            "messages": _messages(),
            "channelBindings": {name: _binding(query) for name, query in _QUERIES.items()},
            "securitySchemes": schemas.SECURITY_SCHEMES,
        },
    }


def _description() -> str:
    codes = " · ".join(f"{code} {code.name.lower().replace('_', ' ')}" for code in CloseCode if code not in NEVER_SENT)
    return (
        "Each channel has a WebSocket. Without a subprotocol it uses the plain form: each text frame is the data of "
        f"one message. With `Sec-WebSocket-Protocol: {SUBPROTOCOL}` each text frame is a JSON object with a `type`. "
        "[openapi.json](openapi.json) describes the HTTP API.\n\n"
        f"Close codes: {codes}. After 1012 or 1013, reconnect and resume. After 4400 or above, fix the cause first."
    )


def _server(protocol: str, root_path: str) -> Object:
    host = {"default": "localhost:8000", "description": "The host that served this document"}
    prefix = {
        "default": root_path,
        "description": "The path of the server behind a proxy, such as /realtime; often empty",
    }
    return {
        "host": "{host}",
        "pathname": "{prefix}",
        "protocol": protocol,
        "variables": {"host": host, "prefix": prefix},
    }


def _binding(query: Schema) -> Object:
    headers = {
        "type": "object",
        "properties": {"Sec-WebSocket-Protocol": {"type": "string", "enum": [SUBPROTOCOL]}},
    }
    return {"ws": {"method": "GET", "query": query, "headers": headers, "bindingVersion": "0.1.0"}}


def _messages() -> Object:
    frames = {name: _message(name, frame) for name, frame in (_SENT | _RECEIVED).items()}
    return {_PLAIN: _plain(schemas.DATA)} | frames


def _plain(data: Schema) -> Object:
    return {"summary": "The data of one message", "payload": data}


def _message(name: str, frame: _Frame, data: Schema = schemas.DATA) -> Object:
    """Return a kind of message; ``data`` is the schema of its member of that name."""
    members = frame.members | ({"data": data} if "data" in frame.members else {})
    payload: Schema = {
        "type": "object",
        "required": ["type", *(member for member in frame.members if member not in frame.optional)],
        "properties": {"type": {"type": "string", "const": name}} | members,
    }
    if name in _RECEIVED:  # the server refuses unknown members; the frames that it sends may get new ones
        payload["additionalProperties"] = False
    correlation = {"correlationId": {"location": "$message.payload#/id"}} if "id" in frame.members else {}
    return {"name": name, "summary": frame.summary, "payload": payload, **correlation}


def _socket() -> Object:
    return {
        "address": "/ws",
        "summary": f"Any number of channels on one socket; requires {SUBPROTOCOL}",
        "messages": _components((*_SENT, *_RECEIVED)),
        "bindings": {"$ref": "#/components/channelBindings/socket"},
    }


def _socket_operations() -> Object:
    requests = {
        f"{kind}_{_SOCKET}": {"summary": frame.summary, **_answered(_SOCKET, kind)} for kind, frame in _RECEIVED.items()
    }
    summary = "Messages of the subscribed channels"
    return {
        f"send_{_SOCKET}": {"summary": summary, **_send(_SOCKET, ("message", "gap", "unsubscribed", "heartbeat"))}
    } | requests


def _channel(channel: Channel, embedded: EmbeddedSchemas) -> Object:
    answered = ("publish", "published", "error") if _takes(channel) else ()
    names = (_PLAIN, "subscribed", "gap", "message", "heartbeat", *answered)
    description: Object = {
        "address": f"/{channel.name}",
        "description": schemas.policy(channel),
        "messages": _components(names) | _with_schema(channel, names, embedded),
        "bindings": {"$ref": "#/components/channelBindings/channel"},
    }
    if channel.is_family:
        description["parameters"] = {schemas.parameter(channel): {"description": f"`{PARAMETER}`"}}
    return description


def _with_schema(channel: Channel, names: tuple[str, ...], embedded: EmbeddedSchemas) -> Object:
    """Return the messages that carry data, for a channel with a schema; nothing for one without."""
    if channel.schema is None:
        return {}
    data = embedded.data(channel)
    framed = {name: frame for name, frame in (_SENT | _RECEIVED).items() if name in names and "data" in frame.members}
    return {_PLAIN: _plain(data)} | {name: _message(name, frame, data) for name, frame in framed.items()}


def _operations(channel: Channel) -> Object:
    """Return the operations of one channel, for both forms; publishing only if the policy allows it."""
    name = channel.name
    get, put = _security(channel.subscribe), _security(channel.publish)
    operations = {
        f"send_plain_{name}": {"summary": f"Messages of {name}, plain", **get, **_send(name, (_PLAIN,))},
        f"send_v1_{name}": {
            "summary": f"Messages of {name}, with positions",
            **get,
            **_send(name, ("subscribed", "gap", "message", "heartbeat")),
        },
    }
    if _takes(channel):
        operations |= {
            f"receive_plain_{name}": {"summary": f"Publish to {name}, plain", **put, **_receive(name, _PLAIN)},
            f"receive_v1_{name}": {
                "summary": f"Publish to {name}, and get the position of the stored message",
                **put,
                **_answered(name, "publish"),
            },
        }
    return operations


def _takes(channel: Channel) -> bool:
    """Whether anyone may publish over the channel's WebSocket."""
    return channel.client_publish and Access.NOBODY not in channel.publish


def _security(policy: Policy) -> Object:
    schemes = schemas.schemes(policy)
    return {"security": [{"$ref": f"#/components/securitySchemes/{scheme}"} for scheme in schemes]} if schemes else {}


def _send(channel: str, messages: tuple[str, ...]) -> Object:
    return {"action": "send", **_exchange(channel, messages)}


def _receive(channel: str, message: str) -> Object:
    return {"action": "receive", **_exchange(channel, (message,))}


def _answered(channel: str, request: str) -> Object:
    return {**_receive(channel, request), "reply": _exchange(channel, (_ANSWERS[request], "error"))}


def _exchange(channel: str, messages: tuple[str, ...]) -> Object:
    pointer = f"#/channels/{quote(channel)}"  # a reference is a URI, which cannot contain a family's braces
    return {"channel": {"$ref": pointer}, "messages": [{"$ref": f"{pointer}/messages/{name}"} for name in messages]}


def _components(names: tuple[str, ...]) -> Object:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}

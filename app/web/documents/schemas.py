"""The parts that the OpenAPI and the AsyncAPI document share: JSON Schemas, and the text of a channel's policy."""

from __future__ import annotations

from typing import Any

from app.core import message
from app.core.channel import Channel
from app.core.message import MAX_OFFSET
from app.core.resume import EARLIEST, MOST
from app.core.rights.policy import Access, Policy

Schema = dict[str, Any]

POSITION: Schema = {
    "type": "string",
    "pattern": f"^{message.POSITION.pattern}$",
    "description": "`<epoch>:<offset>`",
    "examples": ["8c1f0a52:7"],
}
OFFSET: Schema = {"type": "integer", "minimum": 0, "maximum": MAX_OFFSET}
TIME: Schema = {"type": "integer", "description": "Milliseconds since the Unix epoch, from the backend's clock"}
DATA: Schema = {"description": "Any JSON, as the publisher sent it"}
SINCE: Schema = {
    "anyOf": [{"const": EARLIEST}, POSITION],
    "description": "Start after this position; overrides `last`",
}
LAST: Schema = {
    "type": "integer",
    "minimum": 0,
    "maximum": MOST,
    "description": "Start with this many of the newest stored messages",
}
HEARTBEAT: Schema = {
    "type": "boolean",
    "description": "Whether the server sends heartbeats that the client can see",
}
KEY: Schema = {
    "type": "string",
    "pattern": "^[!-~]{1,255}$",
    "description": "Idempotency key: a repeat within ten minutes gets the first result and publishes nothing",
}

SECURITY_SCHEMES: dict[str, Schema] = {
    Access.KEY: {"type": "http", "scheme": "bearer", "description": "One of `auth.keys` in channels.yaml"},
    Access.TOKEN: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A token that `auth.tokens` in channels.yaml verifies",
    },
}
"""The credentials that a policy may require, by the word in the policy."""


def schemes(policy: Policy) -> list[str]:
    """Return the credentials that a policy may ask for, as keys of :data:`SECURITY_SCHEMES`."""
    found = [Access.KEY] if Access.KEY in policy or Access.OPERATORS in policy else []  # a key makes an operator
    return [*found, *([Access.TOKEN] if policy.takes_tokens or Access.ASK in policy else [])]


def parameter(channel: Channel) -> str:
    """Return the name of a family's parameter."""
    return channel.name.partition("{")[2].partition("}")[0]


def policy(channel: Channel) -> str:
    """Return the channel's policy on one line."""
    history = f"{channel.history.size} messages, {channel.history.ttl} s" if channel.history.size else "none"
    return (
        f"publish: {channel.publish} · subscribe: {channel.subscribe} · "
        f"client_publish: {str(channel.client_publish).lower()} · history: {history} · "
        f"at most {channel.max_message_size} bytes a message"
        f"{f' · rate_limit: {channel.rate_limit}' if channel.rate_limit else ''}"
        f"{f' · schema: {channel.schema.path}' if channel.schema else ''}"
    )

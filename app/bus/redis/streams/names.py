"""The names of keys and topics. All of a channel's have its name in braces, so a cluster keeps them together."""

from __future__ import annotations

import hashlib


def head(channel: str) -> str:
    """Return the key of a hash: head, time of the newest message, lineage, who wrote it (store.lua), and a secret."""
    return f"abide:{{{channel}}}:head"


def log(channel: str) -> str:
    """Return the key of the stream: a message is an entry ``<offset>-0`` with ``t``, its time, and ``d``, its data."""
    return f"abide:{{{channel}}}:log"


def done(channel: str, worker: str) -> str:
    """Return the key of what the worker's last commit was answered."""
    return f"abide:{{{channel}}}:done:{worker}"


def key(channel: str, scoped_key: str) -> str:
    """Return the key of an idempotency key's offset and digest."""
    return f"abide:{{{channel}}}:key:{hashlib.blake2b(scoped_key.encode(), digest_size=16).hexdigest()}"


def topic(channel: str, database: int) -> str:
    """Return the topic of publications. Those of all databases of a server are in one place."""
    return f"abide:{database}:{{{channel}}}"


def channel_of(topic: str) -> str:
    """Return the channel of a topic."""
    return topic[topic.index("{") + 1 : -1]

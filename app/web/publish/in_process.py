"""What the process itself publishes: Python values instead of bodies."""

from __future__ import annotations

import json
from copy import copy

from app.core import data
from app.core.channel import Registry
from app.core.data import SHOWN
from app.core.errors import AbideError, MalformedError
from app.core.message import Record, check_key
from app.core.ports import Publisher

_PUBLISHER = "server"
"""Whose idempotency keys those are; of another name than any key's, which is hexadecimal."""


async def publish(registry: Registry, publisher: Publisher, channel: str, value: object, key: str | None) -> str:
    """Publish any value that JSON has; return its position, when it is stored.

    Who may publish is not asked: the process is the server. Raises what a push would be refused with, an
    :class:`AbideError`.
    """
    rules = registry.find(channel)
    message = _dump(value)
    rules.check_size(message)
    record = Record(channel, await data.read(message), check_key(key), _PUBLISHER)
    (outcome,) = await publisher.publish([record])
    if isinstance(outcome, AbideError):
        raise copy(outcome)  # the outcome may be others', too
    return str(outcome.position)


def _dump(value: object) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"the data cannot be written as JSON: {str(error)[:SHOWN]}"
        raise MalformedError(msg) from error

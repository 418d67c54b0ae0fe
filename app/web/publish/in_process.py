"""Publishing from within the process: Python values instead of bodies."""

from __future__ import annotations

import json
from copy import copy

from app.core import data
from app.core.channel import Registry
from app.core.data import SHOWN
from app.core.draft import Draft
from app.core.errors import AbideError, MalformedError
from app.core.message import NOWHERE, check_key
from app.core.ports import Publisher

_PUBLISHER = "server"
"""The owner of the idempotency keys. The other owners are named by hexadecimal digests, so no name is taken twice."""


async def publish(registry: Registry, publisher: Publisher, channel: str, value: object, key: str | None) -> str:
    """Publish any value that JSON can express; return its position when it is stored, or that of no log.

    Policies do not apply: the process is the server. Raises the :class:`AbideError` that would refuse a push.
    """
    rules = registry.find(channel)
    message = _dump(value)
    rules.check_size(message)  # before it is read
    record = await Draft(rules, channel, await data.read(message), check_key(key), _PUBLISHER).read_record()
    (outcome,) = await publisher.publish([record])
    if isinstance(outcome, AbideError):
        raise copy(outcome)  # several messages may share one outcome
    return outcome.position.text or NOWHERE


def _dump(value: object) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"the data cannot be written as JSON: {str(error)[:SHOWN]}"
        raise MalformedError(msg) from error

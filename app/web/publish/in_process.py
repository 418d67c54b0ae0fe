"""What the process itself publishes: Python values instead of bodies."""

from __future__ import annotations

import json
from copy import copy

from app.core import data
from app.core.channel import Registry
from app.core.data import SHOWN
from app.core.errors import AbideError, MalformedError
from app.core.message import Published, Record, check_key
from app.core.ports import Outcome

_PUBLISHER = "server"
"""Whose idempotency keys those are; of another name than any key's, which is hexadecimal."""


async def record(registry: Registry, channel: str, value: object, key: str | None) -> Record:
    """Return what is to be published of any value that JSON has.

    Who may publish is not asked: the process is the server. Raises
    :class:`~app.core.errors.UnknownChannelError`, :class:`~app.core.errors.TooLargeError` and
    :class:`MalformedError`.
    """
    rules = registry.find(channel)
    message = _dump(value)
    rules.check_size(message)
    return Record(channel, await data.read(message), check_key(key), _PUBLISHER)


def stored(outcome: Outcome) -> Published:
    """Return where the message is in its channel; raise why it was not stored."""
    if isinstance(outcome, AbideError):
        raise copy(outcome)  # the outcome may be others', too
    return outcome


def _dump(value: object) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"the data cannot be written as JSON: {str(error)[:SHOWN]}"
        raise MalformedError(msg) from error

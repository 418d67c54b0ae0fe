"""Heartbeats for pages: browsers hide both pings and the comments of an event stream from them."""

from __future__ import annotations

from collections.abc import Mapping

from app.core.delivery.encodings import json_object
from app.core.errors import MalformedError

PARAMETER = "heartbeat"
"""The query parameter that asks for heartbeats; without it a connection carries none."""


def is_wanted(query: Mapping[str, str]) -> bool:
    """Whether the subscriber asks for heartbeats; raise :class:`MalformedError` for any value but true and false."""
    text = query.get(PARAMETER, "false")
    if text not in {"true", "false"}:
        msg = f"{PARAMETER!r} must be true or false, not {text[:40]!r}"
        raise MalformedError(msg)
    return text == "true"


def text(seconds: float) -> bytes:
    """Return a heartbeat as JSON; it says that the next one follows within ``seconds``."""
    return json_object(type="heartbeat", seconds=int(seconds))

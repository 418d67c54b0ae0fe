"""Heartbeats that a page can see: browsers show it neither pings nor the comments of an event stream."""

from __future__ import annotations

from collections.abc import Mapping

from app.core.delivery.encodings import json_object
from app.core.errors import MalformedError

PARAMETER = "heartbeat"
"""The parameter of a query that asks for them; who does not ask gets what was there before them."""


def is_wanted(query: Mapping[str, str]) -> bool:
    """Whether the subscriber asks for heartbeats; raise :class:`MalformedError` for what is neither yes nor no."""
    text = query.get(PARAMETER, "false")
    if text not in {"true", "false"}:
        msg = f"{PARAMETER!r} must be true or false, not {text[:40]!r}"
        raise MalformedError(msg)
    return text == "true"


def text(seconds: float) -> bytes:
    """Return a heartbeat as JSON: the next one comes within so many seconds."""
    return json_object(type="heartbeat", seconds=int(seconds))

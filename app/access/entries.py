"""The entries of ``$access``, the channel of the log that says what was taken back: how they are written and read.

One JSON object each::

    {"revoke": {"sub": "42", "before": 1790000000.0}}
    {"revoke": {"jti": "9f…"}}
    {"disconnect": {"sub": "42", "channel": null}}

``abide.revoke``, ``abide.revoke_token`` and ``abide.disconnect`` write the same (0007_taking_back.sql).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import orjson

from app.access.claims import LONGEST_SUBJECT
from app.core.channel import ACCESS
from app.core.message import Record


class Revocation(NamedTuple):
    """Tokens that were taken back: one, or those of a subject that were issued before a time."""

    sub: str | None = None
    before: float = 0.0
    """Seconds since the Unix epoch; of a subject."""
    jti: str | None = None


class Disconnection(NamedTuple):
    """Connections to close, whose subject may come back at once."""

    sub: str
    channel: str | None = None
    """None for all channels."""


def record(entry: Revocation | Disconnection) -> Record:
    """Return the entry on its way into the log."""
    body: dict[str, Any]
    if isinstance(entry, Disconnection):
        body = {"disconnect": entry._asdict()}
    elif entry.jti is not None:
        body = {"revoke": {"jti": entry.jti}}
    else:
        body = {"revoke": {"sub": entry.sub, "before": entry.before}}
    return Record(ACCESS, orjson.dumps(body))


def read(data: bytes) -> Revocation | Disconnection:
    """Return the entry of a message; raise ValueError, which says what is wrong with it."""
    match _object(orjson.loads(data)):
        case {"revoke": {"jti": jti}}:
            return Revocation(jti=_claim(jti))
        case {"revoke": {"sub": sub, "before": before}}:
            return Revocation(_claim(sub), _seconds(before))
        case {"disconnect": {"sub": sub, **rest}}:
            channel = rest.get("channel")
            return Disconnection(_claim(sub), None if channel is None else _claim(channel))
        case entry:
            msg = f"it has none of the known forms, but the members {sorted(entry)[:3]}"
            raise ValueError(msg)


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        msg = "it is no object"
        raise ValueError(msg)  # noqa: TRY004 — of the entry, not of an argument
    return value


def _claim(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_SUBJECT:
        msg = f"a sub, jti or channel is no text of 1 to {LONGEST_SUBJECT} characters"
        raise ValueError(msg)
    return value


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        msg = "before is no number of seconds"
        raise ValueError(msg)
    return float(value)

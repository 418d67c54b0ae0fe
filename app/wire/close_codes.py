"""Why a WebSocket is closed (RFC 6455 §7.4, and 44xx of our own)."""

from __future__ import annotations

from enum import IntEnum

MAX_REASON = 123
"""Bytes of a close's reason: what a control frame has left beside the code."""


class CloseCode(IntEnum):
    """Why the server closes a WebSocket. 1xxx: reconnect if it helps; 44xx: fix something first."""

    NORMAL = 1000
    ABNORMAL = 1006
    UNSUPPORTED_DATA = 1003
    INVALID_UTF8 = 1007
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    RESTARTING = 1012
    OVERLOADED = 1013
    BAD_FRAME = 4400
    UNAUTHORISED = 4401
    FORBIDDEN = 4403
    CHANNEL_REMOVED = 4404
    GAP = 4410
    TOO_MANY = 4429

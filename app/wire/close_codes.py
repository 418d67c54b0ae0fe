"""Why a WebSocket was closed: the codes of RFC 6455 §7.4 and its registry, and 44xx of our own."""

from __future__ import annotations

from enum import IntEnum

MAX_REASON = 123
"""The longest reason of a close, in bytes: a control frame has room for 125, and the code takes two."""


class CloseCode(IntEnum):
    """The codes that the server sends or reports. After 1xxx a client may reconnect; after 44xx it must change."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_CODE = 1005
    ABNORMAL = 1006
    INVALID_UTF8 = 1007
    POLICY_VIOLATION = 1008
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    RESTARTING = 1012
    OVERLOADED = 1013
    BAD_FRAME = 4400
    UNAUTHORISED = 4401
    FORBIDDEN = 4403
    CHANNEL_REMOVED = 4404
    EXPIRED = 4408
    GAP = 4410
    SCHEMA_MISMATCH = 4422
    TOO_MANY = 4429


NEVER_SENT = frozenset({CloseCode.NO_CODE, CloseCode.ABNORMAL})
"""Codes that only report: a close without a code was received, or the connection ended without a close."""

_REGISTERED = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})
_FREE = range(3000, 5000)


def is_sendable(code: int) -> bool:
    """Return whether a close frame may have this code."""
    return code in _REGISTERED or code in _FREE


def fit_reason(reason: str) -> str:
    """Return as much of a reason as fits into :data:`MAX_REASON` bytes of UTF-8, cut between two characters."""
    return reason.encode()[:MAX_REASON].decode(errors="ignore")

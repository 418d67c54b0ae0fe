"""The idempotency keys of all channels that one process remembers in memory."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import NamedTuple

from app.bus.backend import KEY_LIFETIME
from app.core.errors import KeyReusedError, OverloadedError
from app.core.message import Record

MAX_KEYS = 100_000
"""The most keys of the last ten minutes. Each takes about 400 bytes, however long it is.

Publishers without a name, which may be anybody, get half of them together.
"""

_FORGOTTEN_AT_ONCE = 1000


class _Stored(NamedTuple):
    """The message stored under a key: enough to tell it from another message, without its data."""

    data: bytes
    """Its SHA-256."""
    offset: int
    time: int
    anonymous: bool
    """Whether its publisher has no name."""


class MemoryKeys:
    """Remembers for :data:`~app.bus.backend.KEY_LIFETIME` what was stored; times are in milliseconds."""

    def __init__(self, most: int = MAX_KEYS) -> None:
        self._most = most
        self._stored: OrderedDict[bytes, _Stored] = OrderedDict()
        """By a digest of channel and key, in the order of arrival."""
        self._anonymous = 0

    def __len__(self) -> int:
        return len(self._stored)

    def find(self, record: Record, now: int) -> int | None:
        """Return the offset at which the record was stored before; None if it was not.

        Raises :class:`KeyReusedError` if another message was stored under its key, and :class:`OverloadedError` if
        its key is new and there is no room for it.
        """
        self.forget(now)
        known = self._stored.get(_name(record))
        if known is not None and known.time < now - KEY_LIFETIME * 1000:  # more expired than can be forgotten at once
            self._anonymous -= self._stored.pop(_name(record)).anonymous
            known = None
        if known is None:
            self._check_room(record)
            return None
        if known.data != hashlib.sha256(record.data).digest():
            raise KeyReusedError.of(record.key)
        return known.offset

    def add(self, record: Record, offset: int, now: int) -> None:
        """Remember a record that :meth:`find` did not know."""
        anonymous = not record.publisher
        self._stored[_name(record)] = _Stored(hashlib.sha256(record.data).digest(), offset, now, anonymous)
        self._anonymous += anonymous

    def forget(self, now: int) -> bool:
        """Forget some of the keys that have expired, the oldest first; return whether there may be more."""
        for _ in range(min(_FORGOTTEN_AT_ONCE, len(self._stored))):
            oldest, stored = next(iter(self._stored.items()))
            if stored.time >= now - KEY_LIFETIME * 1000:
                return False
            del self._stored[oldest]
            self._anonymous -= stored.anonymous
        return bool(self._stored)

    def _check_room(self, record: Record) -> None:
        if len(self._stored) >= self._most:
            most, whose = self._most, ""
        elif not record.publisher and self._anonymous >= self._most // 2:
            most, whose = self._most // 2, " of publishers without one of PUSH_KEYS"
        else:
            return
        msg = (
            f"memory:// already remembers {most} idempotency keys{whose} of the last {KEY_LIFETIME // 60} minutes and "
            "has no room for more: publish without a key, or again later"
        )
        raise OverloadedError(msg)


def _name(record: Record) -> bytes:
    return hashlib.blake2b(f"{record.channel} {record.scoped_key}".encode(), digest_size=16).digest()

r"""What commits publish, and what proves that one has: store.lua makes the two kinds, and their seal.

They are ``e <mac> <epoch> <last> <n> <time>\n<messages>``, and ``d <head>`` where the messages are too large. A client
of the same Redis may be allowed to publish here, and not to write our keys. So each is a hint where to look. Only
messages with the right ``mac`` are more: it takes a secret that is kept beside the channel's head. Redis has no more
than SHA-1, which is applied as HMAC applies it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import NamedTuple

from app.core.message import Message

_SEALED = re.compile(rb"e ([0-9a-f]{40}) ([0-9a-z]{8}) ([0-9]{1,16}) ([0-9]{1,7}) ([0-9]{1,16})\n")
_HINT = re.compile(rb"d ([0-9]{1,16})")
_SEALED_FROM = len("e  ") + 40
"""Where what the MAC covers begins."""


class Told(NamedTuple):
    """Messages that a publication carries."""

    epoch: str
    """The name of the channel's newest epoch."""
    last: int
    messages: tuple[Message, ...]
    """Empty where nothing proves them."""


def read(payload: bytes, secret: bytes) -> Told | None:
    """Read a publication; return None for anything that is none."""
    found = _SEALED.match(payload)
    if found is None:
        hint = _HINT.fullmatch(payload)
        return Told("", int(hint[1]), ()) if hint else None
    mac, epoch, last, _, time = found.groups()
    if not secret or not hmac.compare_digest(mac, _mac(secret, payload[_SEALED_FROM:])):
        return Told("", int(last), ())
    return Told(epoch.decode(), int(last), messages(payload[found.end() :], int(last), int(time)))


def messages(body: bytes, last: int, time: int) -> tuple[Message, ...]:
    """Return the messages of a body; ``last`` is the offset of the last one."""
    texts = body.split(b"\x1e")
    first = last - len(texts) + 1
    return tuple([Message(offset, time, text) for offset, text in enumerate(texts, first)])


def _mac(secret: bytes, text: bytes) -> bytes:
    inner = hashlib.sha1(secret + text).hexdigest().encode()  # noqa: S324 — see above
    return hashlib.sha1(secret + inner).hexdigest().encode()  # noqa: S324

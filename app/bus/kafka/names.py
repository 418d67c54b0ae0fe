"""Names of topics: a prefix and the channel's name, with what Kafka does not take encoded.

Kafka takes up to 249 letters, digits and ``.``, ``_``, ``-``, but not two names that differ only in ``.`` and ``_``.

* Any other character becomes ``_`` and two hexadecimal digits: ``$access`` is ``_24access``, and ``a_b`` is ``a_5fb``.
* So does a dot before two hexadecimal digits, and each dot of a name of dots: ``a.5fb`` is ``a_2e5fb``.
* A name that becomes longer than 200 keeps its beginning, and gets ``_h`` and a hash: it has 234 characters.

So no two channels share a topic, and no topic is refused because of another. The prefix is the same for all.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

_LONGEST = 200
_HASH = 32

_ENCODED = re.compile(r"[^A-Za-z0-9.-]|\.(?=[0-9a-f]{2})")


@lru_cache(maxsize=20_000)
def topic_of(prefix: str, channel: str) -> str:
    """Return the name of the channel's topic."""
    encoded = _ENCODED.sub(_escape, channel)
    if not encoded.strip("."):
        encoded = encoded.replace(".", "_2e")
    if len(prefix) + len(encoded) > _LONGEST:
        digest = hashlib.sha256(channel.encode()).hexdigest()[:_HASH]
        encoded = f"{encoded[: _LONGEST - len(prefix)]}_h{digest}"
    return prefix + encoded


def _escape(match: re.Match[str]) -> str:
    return "".join(f"_{byte:02x}" for byte in match[0].encode())

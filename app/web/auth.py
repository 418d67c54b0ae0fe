"""Who is calling, and from which page."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from app.core.channel import Identity
from app.core.errors import ForbiddenError

_NAME_DIGITS = 12
"""Of a key's digest in the name of its identity: enough to tell keys apart, too few to be of use."""


class Authenticator:
    """Knows callers by the keys that they bring in ``Authorization: Bearer <key>``."""

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        # Digests have one length, so that comparing them tells nothing of a key's.
        self._digests = [_digest(key) for key in keys]
        self._holders = [Identity(has_key=True, name=digest.hex()[:_NAME_DIGITS]) for digest in self._digests]

    @property
    def has_keys(self) -> bool:
        """Whether any key is configured."""
        return bool(self._digests)

    def identify(self, headers: Mapping[str, str]) -> Identity:
        """Return the caller's identity; in time that does not depend on how near a key is."""
        if not self._digests:
            return Identity(reason="no keys are configured (auth.keys), so nobody can")
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return Identity()
        digest = _digest(credentials.strip().encode("latin-1"))
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(matches):
            return Identity(reason="the key sent is none of the configured ones")
        return self._holders[matches.index(True)]


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def check_origin(headers: Mapping[str, str], origins: tuple[str, ...]) -> None:
    """Refuse a browser's socket from a page that is not among ``origins``.

    Raises :class:`ForbiddenError`. A caller that is no browser sends no Origin and is let in.
    """
    origin = headers.get("origin")
    if origin is None or "*" in origins or origin in origins:
        return
    msg = f"pages of {origin[:200]} may not connect here: add it to 'origins' in channels.yaml"
    raise ForbiddenError(msg)

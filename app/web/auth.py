"""Who is calling, and from which page."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from starlette.requests import HTTPConnection
from starlette.types import Scope

from app.core.channel import Access, Identity
from app.core.errors import AbideError, UnauthorisedError
from app.web.loopback import is_local
from app.web.origins import Origins

_NAME_DIGITS = 12
"""Of a key's digest in the name of its identity: enough to tell keys apart, too few to be of use."""

_NO_KEYS = "no keys are configured (auth.keys), so nobody can"


class Authenticator:
    """Knows callers by the keys that they bring in ``Authorization: Bearer <key>``, and by where they are.

    ``operators`` says who is one: ``anyone``, or who has a ``key``; None for who has a key, or is on this
    machine. ``on_loopback`` says whether the server listens there alone: else everybody is a stranger.
    """

    def __init__(
        self,
        keys: tuple[bytes, ...],
        origins: tuple[str, ...] = ("*",),
        operators: Access | None = None,
        *,
        on_loopback: bool = False,
    ) -> None:
        # Digests have one length, so that comparing them tells nothing of a key's.
        self._digests = [_digest(key) for key in keys]
        self.origins = Origins(origins)
        """Whose pages may use the server."""
        self.operators = operators
        """Who is an operator, as configured."""
        self._local_may = operators is None and on_loopback
        self._holders = [
            Identity(has_key=True, name=digest.hex()[:_NAME_DIGITS], is_operator=True) for digest in self._digests
        ]

    def identify(self, headers: Mapping[str, str], peer: str | None) -> Identity:
        """Return the caller's identity; in time that does not depend on how near a key is.

        Names of ``headers`` are in lower case; ``peer`` is the address that the connection comes from, None
        where that is not known. Raises :class:`~app.core.errors.ForbiddenError` for a page of a foreign
        origin, and :class:`UnauthorisedError` for a key that is none, also where nobody needs one.
        """
        self.origins.check(headers)
        if not self._digests:
            return self._keyless(_NO_KEYS, headers, peer)
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return self._keyless("no key was sent", headers, peer)
        digest = _digest(credentials.strip().encode("latin-1"))
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(matches):
            msg = "the key sent is none of the configured ones (auth.keys): send another, or none where none is needed"
            raise UnauthorisedError(msg)
        return self._holders[matches.index(True)]

    def check_operator(self, request: HTTPConnection, what: str) -> None:
        """Raise unless an operator asks, as :meth:`identify` does and :meth:`Identity.check_operator`."""
        self.identify(request.headers, peer(request.scope)).check_operator(f"only operators may see {what}")

    def is_operator(self, request: HTTPConnection) -> bool:
        """Whether an operator asks."""
        try:
            return self.identify(request.headers, peer(request.scope)).is_operator
        except AbideError:
            return False

    def _keyless(self, reason: str, headers: Mapping[str, str], peer: str | None) -> Identity:
        is_operator = self.operators is Access.ANYONE or (self._local_may and is_local(headers, peer, self.origins))
        return Identity(reason=reason, is_operator=is_operator, keys_exist=bool(self._digests))


def peer(scope: Scope) -> str | None:
    """Return the address that a request comes from, as far as it is known."""
    client = scope.get("client")
    return client[0] if client else None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()

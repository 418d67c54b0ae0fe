"""Identifies callers: by their key, by where they are, and by the page that sent the request."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from starlette.requests import HTTPConnection
from starlette.types import Scope

from app.core.channel import Access, Caller, Identity
from app.core.errors import AbideError, UnauthorisedError
from app.web.edge.loopback import is_forwarded, is_here, is_local, is_near
from app.web.edge.origins import Origins, is_own

_NAME_DIGITS = 12
"""How many digits of a key's digest name its identity: enough to tell keys apart, too few to help an attacker."""

_LONGEST_ORIGIN = 300
"""How many characters of an origin are kept: more than a scheme, a host name and a port have."""

_NO_KEYS = "no keys are configured"


class Authenticator:
    """Identifies callers by the key in ``Authorization: Bearer <key>``, and by whether they are on this machine.

    ``operators`` says who is an operator: ``anyone``, or callers with a ``key``; None for callers with a key and
    those on this machine. The latter count only if ``on_loopback``: the server listens on loopback alone.
    """

    def __init__(
        self,
        keys: tuple[bytes, ...],
        origins: tuple[str, ...] = ("*",),
        operators: Access | None = None,
        *,
        on_loopback: bool = False,
    ) -> None:
        # Digests all have the same length, so comparing them reveals nothing about a key's.
        self._keyed = [
            (digest, Identity(has_key=True, name=digest.hex()[:_NAME_DIGITS], is_operator=True))
            for digest in map(_digest, keys)
        ]
        self.origins = Origins(origins, on_loopback=on_loopback)
        """The origins whose pages may use the server."""
        self.operators = operators
        """The configured policy for operators."""
        self._local_may = operators is None and on_loopback

    def identify(self, headers: Mapping[str, str], peer: str | None) -> Identity:
        """Return the caller's identity, in a time that does not depend on how similar a wrong key is.

        Names of ``headers`` are in lower case; ``peer`` is the address that the connection comes from, None if
        it is not known. Raises :class:`~app.core.errors.ForbiddenError` for a page of a foreign origin, and
        :class:`UnauthorisedError` for an unknown key, even where no key is needed.
        """
        return self._judge(see(headers, peer))

    def judge(self, identity: Identity) -> Identity:
        """Return the identity of an open connection under these settings; raise as :meth:`identify` does."""
        return self._judge(identity.caller)

    def _judge(self, caller: Caller) -> Identity:
        return self.authenticate(caller)._replace(caller=caller)

    def authenticate(self, caller: Caller) -> Identity:
        """Return the identity of a caller by what it shows, without that; raises as :meth:`identify` does."""
        self.origins.check(caller)
        if not self._keyed:
            return self._keyless(_NO_KEYS, caller)
        if caller.digest is None:
            return self._keyless("no key was sent", caller)
        found = None
        for digest, identity in self._keyed:  # all of them, whichever it is
            if hmac.compare_digest(caller.digest, digest):
                found = identity
        if found is None:
            msg = "the key sent is none of the configured ones (auth.keys): send another, or none where none is needed"
            raise UnauthorisedError(msg)
        return found

    def check_operator(self, request: HTTPConnection, what: str) -> None:
        """Raise unless the caller is an operator, as :meth:`identify` and :meth:`Identity.check_operator` do."""
        self.identify(request.headers, peer(request.scope)).check_operator(f"only operators may see {what}")

    def is_operator(self, request: HTTPConnection) -> bool:
        """Whether the caller is an operator."""
        try:
            return self.identify(request.headers, peer(request.scope)).is_operator
        except AbideError:
            return False

    def _keyless(self, reason: str, caller: Caller) -> Identity:
        is_operator = self.operators is Access.ANYONE or (self._local_may and is_local(caller, self.origins))
        return Identity(reason=reason, is_operator=is_operator, keys_exist=bool(self._keyed))


def see(headers: Mapping[str, str], peer: str | None) -> Caller:
    """Return what a request shows of its caller; the arguments are those of :meth:`Authenticator.identify`."""
    origin, host = headers.get("origin"), headers.get("host", "")
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    own = origin is not None and is_own(origin, host)
    return Caller(
        _digest(credentials.strip().encode("latin-1")) if scheme.lower() == "bearer" else None,
        is_near(headers, peer),
        None if origin is None else origin[:_LONGEST_ORIGIN],
        is_own=own,
        is_elsewhere=own and not is_here(host) and not is_forwarded(headers),
    )


def peer(scope: Scope) -> str | None:
    """Return the address that a request comes from; None if it is not known, or may be a proxy's.

    A request with HTTP/1.0 may come from a proxy: nginx sends that version unless it is configured otherwise.
    """
    client = scope.get("client")
    return client[0] if client and scope.get("http_version") != "1.0" else None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()

"""Decides which pages may use the server, by the ``Origin`` header of their browser (RFC 6454)."""

from __future__ import annotations

import re

from app.core.errors import ForbiddenError
from app.core.rights.policy import Caller

OPAQUE = "null"
"""The origin of a page that has none of its own, such as one in a sandboxed frame."""

_ANY, _WILDCARD = "*", "*."
_LABELS = r"([a-z0-9_-]+\.)+"
"""What a wildcard matches: one label or more, as in a Content-Security-Policy."""

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class Origins:
    """The configured origins: ``*``, ``null``, or ``scheme://host[:port]`` with or without ``*.`` before the host."""

    def __init__(self, configured: tuple[str, ...], *, on_loopback: bool = False) -> None:
        self._on_loopback = on_loopback
        self.any = _ANY in configured
        """Whether pages of every origin may use the server."""
        self._exact = frozenset(origin for origin in configured if _WILDCARD not in origin) - {_ANY}
        self._hosts = frozenset(map(authority, self._exact))
        wildcards = [origin for origin in configured if _WILDCARD in origin]
        self._wildcards = re.compile("|".join(map(_pattern, wildcards)), re.ASCII) if wildcards else None

    def lists(self, origin: str) -> bool:
        """Whether the origin is listed, itself or by a wildcard of its host; ``*`` does not count."""
        return origin in self._exact or (self._wildcards is not None and self._wildcards.fullmatch(origin) is not None)

    def names(self, origin: str) -> bool:
        """Whether the origin is listed itself, without a wildcard; ``null`` does not count, as any page can have it."""
        return origin != OPAQUE and origin in self._exact

    def trusts(self, origin: str) -> bool:
        """Whether the origin is listed; ``null`` does not count, as any page can make a frame with it."""
        return origin != OPAQUE and self.lists(origin)

    def check(self, caller: Caller) -> None:
        """Raise :class:`ForbiddenError` for a request that comes from a page of a foreign origin.

        Clients that are not browsers send no Origin, and are admitted. So are the server's own pages, whose Origin
        names the host that the request is for. On a server that only this machine can reach, such a page must also
        have a name of this machine, or be listed: otherwise a page whose name an attacker has pointed here (DNS
        rebinding) would count as the server's own.
        """
        origin = caller.origin
        if origin is None or self.any or self.lists(origin):
            return
        is_rebound = self._on_loopback and caller.is_elsewhere and authority(origin) not in self._hosts
        if caller.is_own and not is_rebound:
            return
        msg = f"pages of {origin[:200]!r} may not use this server: add the origin to 'origins' in channels.yaml"
        raise ForbiddenError(msg)


def authority(origin: str) -> str:
    """Return ``host[:port]`` of an origin; an empty text for ``null``."""
    return origin.partition("://")[2]


def is_own(origin: str, host: str) -> bool:
    """Whether the origin is the server's own: it names the host that the request is for."""
    scheme, _, own = origin.partition("://")
    # A browser leaves the scheme's default port out of both; a proxy may add it to Host.
    return bool(own) and scheme in _DEFAULT_PORTS and host.lower() in (own, own + _DEFAULT_PORTS[scheme])


def _pattern(wildcard: str) -> str:
    scheme, _, below = wildcard.partition(_WILDCARD)
    return re.escape(scheme) + _LABELS + re.escape(below)

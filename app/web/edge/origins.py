"""Which pages may use the server, by the ``Origin`` that their browser sends (RFC 6454)."""

from __future__ import annotations

import re

from app.core.channel import Caller
from app.core.errors import ForbiddenError

_ANY, _OPAQUE, _WILDCARD = "*", "null", "*."
_LABELS = r"([a-z0-9_-]+\.)+"
"""What a wildcard stands for: one label or more, as in a Content-Security-Policy."""

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class Origins:
    """The configured origins: ``*``, ``null``, ``scheme://host[:port]``, the host with ``*.`` before it or not."""

    def __init__(self, configured: tuple[str, ...], *, on_loopback: bool = False) -> None:
        self._on_loopback = on_loopback
        self.any = _ANY in configured
        """Whether a page of any origin may use the server."""
        self._exact = frozenset(origin for origin in configured if _WILDCARD not in origin) - {_ANY}
        self._hosts = frozenset(map(authority, self._exact))
        wildcards = [origin for origin in configured if _WILDCARD in origin]
        self._wildcards = re.compile("|".join(map(_pattern, wildcards)), re.ASCII) if wildcards else None

    def lists(self, origin: str) -> bool:
        """Whether the origin is named, by itself or by a wildcard of its host, and not only by ``*``."""
        return origin in self._exact or (self._wildcards is not None and self._wildcards.fullmatch(origin) is not None)

    def names(self, origin: str) -> bool:
        """Whether the origin is listed as it is, and is somebody's own."""
        return origin != _OPAQUE and origin in self._exact

    def trusts(self, origin: str) -> bool:
        """Whether the origin is listed and somebody's own: any page can make a frame whose origin is ``null``."""
        return origin != _OPAQUE and self.lists(origin)

    def check(self, caller: Caller) -> None:
        """Refuse what a page of a foreign origin has a browser ask.

        Raises :class:`ForbiddenError`. Who is no browser sends no Origin and is let in. So are the
        server's own pages: their Origin names the host that they ask.
        Where only this machine reaches the server, a host of another name is nobody's that is not listed: else
        a page whose name was made to lead here (DNS rebinding) would be the server's own.
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
    """Return ``host[:port]`` of an origin; nothing of ``null``."""
    return origin.partition("://")[2]


def is_own(origin: str, host: str) -> bool:
    """Whether a page of the origin is the server's: it names the host that it asks."""
    scheme, _, own = origin.partition("://")
    # A browser leaves the scheme's own port out of both; a proxy may put it into Host.
    return bool(own) and scheme in _DEFAULT_PORTS and host.lower() in (own, own + _DEFAULT_PORTS[scheme])


def _pattern(wildcard: str) -> str:
    scheme, _, below = wildcard.partition(_WILDCARD)
    return re.escape(scheme) + _LABELS + re.escape(below)

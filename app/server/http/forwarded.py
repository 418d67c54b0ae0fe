"""The client of a request that came through a proxy: X-Forwarded-For and X-Forwarded-Proto."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from uvicorn.config import Config

from app.wire.http1 import Headers

Address = tuple[str, int]

_SECURE = {b"http": False, b"ws": False, b"https": True, b"wss": True}
_HOP = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+)(?=:))(?::([0-9]{1,5}))?")
_LONGEST_HOST = 253
"""The most characters of a remembered address, because a client may send any text."""


class Forwarded(NamedTuple):
    """What a request's headers say about the client. Only a trusted proxy's headers count."""

    client: Address | None
    """The client's address, with port 0 if the headers give none; None if they give no address."""
    is_tls: bool | None
    """Whether the client uses TLS; None if the headers do not say."""


class TrustedProxies:
    """The trusted proxies: addresses, networks, names of peers without an address, or ``*`` for all.

    They are uvicorn's ``forwarded_allow_ips``, with the same meaning.
    """

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._all = allowed == ("*",)
        self._names = frozenset(one.strip() for one in allowed)
        self._networks = [network for one in allowed if (network := _network(one)) is not None]
        self._trusts = lru_cache(maxsize=1000)(self._find)

    @classmethod
    def of(cls, config: Config) -> TrustedProxies:
        """Return the trusted proxies of a configuration; none if uvicorn's own middleware reads the headers."""
        if config.proxy_headers:
            return cls(())
        allowed = config.forwarded_allow_ips
        return cls(tuple(allowed.split(",") if isinstance(allowed, str) else allowed))

    def trust(self, host: str | None) -> bool:
        """Whether this peer is a trusted proxy."""
        if self._all or not host:
            return self._all
        return self._trusts(host) if len(host) <= _LONGEST_HOST else self._find(host)

    def read(self, headers: Headers) -> Forwarded:
        """Return what a trusted proxy says about the client.

        Each proxy appends the address that connected to it. So the client is the last address that is not a trusted
        proxy, or the first address if all are proxies.
        """
        hops: list[bytes] = []
        is_tls = None
        for name, value in headers:
            if name == b"x-forwarded-for":
                hops += value.split(b",")
            elif name == b"x-forwarded-proto":
                is_tls = _SECURE.get(value.strip())
        addresses = [_address(hop.decode("latin-1").strip()) for hop in hops]
        client = next(
            (hop for hop in reversed(addresses) if not self.trust(hop[0])), addresses[0] if addresses else None
        )
        return Forwarded(client if client and client[0] else None, is_tls)

    def client(self, headers: Headers, peer: Address | None, is_tls: bool) -> tuple[Address | None, bool]:  # noqa: FBT001 — the peer's
        """Return the client of a trusted peer's request, and whether it uses TLS; the peer's own by default."""
        said = self.read(headers)
        return said.client or peer, is_tls if said.is_tls is None else said.is_tls

    def _find(self, host: str) -> bool:
        try:
            address = ip_address(host)
        except ValueError:
            return host in self._names
        return any(address in network for network in self._networks)


def _network(allowed: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(allowed.strip())
    except ValueError:
        return None


def _address(hop: str) -> Address:
    """Split ``host``, ``host:port`` or ``[host]:port`` into host and port; return any other text with port 0."""
    match = _HOP.fullmatch(hop)
    if match is None:
        return hop, 0
    return match[1] or match[2], int(match[3] or 0)

"""How much clients may take of one worker, as the settings in force say; and which addresses are one client's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one worker."""

    connections: int = 100_000
    """Sockets, event streams and long-polls that are open at once."""

    connections_per_address: int | None = None
    """Those of one client address; None for no limit."""

    handshakes: int = 2000
    """Connections that owe a whole request head; one address may have half of them."""

    subscriptions: int = 100
    """Subscriptions of one connection."""

    frames: int = 10_000
    """Frames in a second from one WebSocket, pings and fragments included."""

    bodies: int = 64 * 1024 * 1024
    """Bytes of the incomplete bodies and WebSocket messages of all clients together."""

    request_time: float = 60
    """Seconds for a request or a WebSocket message to arrive as a whole, without the time for its size."""

    answer_time: float = 60
    """Seconds for an answer to be read, without the time for its size."""


LIMITS = "abide.limits"
"""The key in the lifespan's ``state`` of a function that returns the :class:`Limits` in force."""

InForce = Callable[[], Limits]

_NONE = Limits(connections=sys.maxsize, handshakes=sys.maxsize, frames=sys.maxsize)


def unlimited() -> Limits:
    """Return the limits of an application that sets none."""
    return _NONE


_LONGEST = 64
"""The most characters of an address that are looked at: a proxy may pass on any text."""

_NETWORK_BITS = 64


def client_of(address: str | None) -> str:
    """Return what all addresses of one client have in common; the empty text for an unknown address.

    It is an IPv4 address, or the /64 of an IPv6 address: whoever has one address of a /64 has all of them.
    """
    return _client_of(address[:_LONGEST]) if address else ""


@lru_cache(maxsize=1000)
def _client_of(address: str) -> str:
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    host_bits = parsed.max_prefixlen - _NETWORK_BITS
    return f"{IPv6Address(int(parsed) >> host_bits << host_bits)}/{_NETWORK_BITS}"

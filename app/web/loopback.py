"""Who is on this machine: the one place that decides whether a request needs no key to be an operator's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address

from app.core.channel import Caller
from app.web.origins import Origins, authority

FORWARDING = frozenset(
    (
        "forwarded", "forwarded-for", "via", "cdn-loop", "client-ip", "true-client-ip", "x-real-ip", "x-client-ip",
        "x-cluster-client-ip", "x-original-forwarded-for", "x-original-host", "x-original-url",
        "x-envoy-external-address", "cf-connecting-ip", "cf-ray", "fastly-client-ip", "fly-client-ip",
    )
)  # fmt: skip
"""Headers by which a proxy says that it speaks for somebody else; and all that begin with :data:`FORWARDED`."""

FORWARDED = "x-forwarded-"

_LOCALHOST = "localhost"


def is_local(caller: Caller, origins: Origins) -> bool:
    """Whether a person or a program on this machine asks: no page, or one of this machine or of a trusted origin.

    Any page that a developer looks at can ask ``localhost``, and ``origins: ["*"]`` does not mean that.
    """
    origin = caller.origin
    return caller.is_near and (origin is None or origins.trusts(origin) or _is_loopback(_host(authority(origin))))


def is_near(headers: Mapping[str, str], peer: str | None) -> bool:
    """Whether a request comes from this machine, and by way of nobody.

    ``peer`` is the address that the connection comes from. Besides, the request

    * carries no header of a proxy;
    * names no other machine in Host: a name of a stranger's that was made to lead here (DNS rebinding) would
      make the stranger's page one of the server's own. Such a name has a dot; what has none is this network's.
    """
    if peer is None or not _is_loopback(peer):
        return False
    named = _host(headers.get("host", ""))
    if not _is_loopback(named) and ("." in named or ":" in named):
        return False
    return not any(name in FORWARDING or name.startswith(FORWARDED) for name in headers)


def _host(authority: str) -> str:
    """Return the host without its port and brackets."""
    host, colon, port = authority.rpartition(":")
    return (host if colon and port.isdigit() else authority).strip("[]").lower()


@lru_cache(maxsize=256)
def _is_loopback(host: str) -> bool:
    if host == _LOCALHOST or host.endswith(f".{_LOCALHOST}"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False

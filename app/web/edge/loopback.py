"""Decides whether a request comes from this machine, and so needs no key to be an operator's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address

from app.core.rights.policy import Caller
from app.web.edge.origins import Origins, authority

FORWARDING = frozenset(
    (
        "forwarded", "forwarded-for", "via", "cdn-loop", "client-ip", "true-client-ip", "x-real-ip", "x-client-ip",
        "x-cluster-client-ip", "x-original-forwarded-for", "x-original-host", "x-original-url",
        "x-originating-ip", "x-remote-ip", "x-remote-addr", "proxy-client-ip", "wl-proxy-client-ip",
        "x-envoy-external-address", "cf-connecting-ip", "cf-connecting-ipv6", "cf-ray", "do-connecting-ip",
        "fastly-client-ip", "fly-client-ip", "x-appengine-user-ip", "x-azure-clientip",
    )
)  # fmt: skip
"""Headers that proxies add when they forward a request; so are all that begin with :data:`FORWARDED`."""

FORWARDED = "x-forwarded"

_LOCALHOST = "localhost"

OTHER_SITES = ("cross-site", "same-site")
"""Values of Sec-Fetch-Site for a request that a page of another origin caused."""


def is_local(caller: Caller, origins: Origins) -> bool:
    """Whether the request comes from this machine, and from no page but one of this machine or of a listed origin.

    Any page that a developer opens can send requests to ``localhost``. Neither ``origins: ["*"]`` nor a wildcard
    makes such a page trusted: people who can register a name below a domain do not own the domain.
    """
    origin = caller.origin
    return caller.is_near and (origin is None or origins.names(origin) or is_here(authority(origin)))


def is_near(headers: Mapping[str, str], peer: str | None) -> bool:
    """Whether a request comes from this machine, and through no proxy.

    ``peer`` is the address that the connection comes from. The request must also

    * name this machine in Host, see :func:`is_here`;
    * carry no header of a proxy;
    * not be one that a page of another site causes without an Origin, as images, scripts and links do.
    """
    return (
        peer is not None
        and is_here(peer)
        and is_here(headers.get("host", ""))
        and not is_forwarded(headers)
        and ("origin" in headers or headers.get("sec-fetch-site", "").lower() not in OTHER_SITES)
    )


def is_here(authority: str) -> bool:
    """Whether ``host[:port]`` names this machine without the help of a name server.

    Somebody may have pointed any other name here (DNS rebinding), and a name without a dot may be that of another
    machine on the network (LLMNR): its page would count as one of the server's own.
    """
    host, colon, port = authority.rpartition(":")
    return is_loopback((host if colon and port.isdigit() and not host.endswith(":") else authority).strip("[]").lower())


def is_forwarded(headers: Mapping[str, str]) -> bool:
    """Whether a proxy has forwarded the request."""
    return any(name in FORWARDING or name.startswith(FORWARDED) for name in headers)


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether a host, or the address of a peer, is this machine."""
    if host == _LOCALHOST or host.endswith(f".{_LOCALHOST}"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False

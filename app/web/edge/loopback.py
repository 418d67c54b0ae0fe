"""Who is on this machine: the one place that decides whether a request needs no key to be an operator's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address

from app.core.channel import Caller
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
"""Headers by which a proxy says that it speaks for somebody else; and all that begin with :data:`FORWARDED`."""

FORWARDED = "x-forwarded"

_LOCALHOST = "localhost"

_OTHER_SITES = ("cross-site", "same-site")


def is_local(caller: Caller, origins: Origins) -> bool:
    """Whether a person or a program on this machine asks: no page, or one of this machine or of a named origin.

    Any page that a developer looks at can ask ``localhost``. ``origins: ["*"]`` does not mean that, nor does a
    wildcard: whoever can have a name below a domain is not its owner.
    """
    origin = caller.origin
    return caller.is_near and (origin is None or origins.names(origin) or is_here(authority(origin)))


def is_near(headers: Mapping[str, str], peer: str | None) -> bool:
    """Whether a request comes from this machine, and by way of nobody.

    ``peer`` is the address that the connection comes from. Besides, the request

    * names this machine in Host, see :func:`is_here`;
    * carries no header of a proxy;
    * is none that a page of another site causes without an Origin, as images, scripts and links do.
    """
    return (
        peer is not None
        and is_here(peer)
        and is_here(headers.get("host", ""))
        and not is_forwarded(headers)
        and ("origin" in headers or headers.get("sec-fetch-site", "").lower() not in _OTHER_SITES)
    )


def is_here(authority: str) -> bool:
    """Whether ``host[:port]`` is this machine whatever a name server says.

    Any other name may be a stranger's that was made to lead here (DNS rebinding), and one without a dot may be
    what another machine of the network calls itself (LLMNR): its page would be one of the server's own.
    """
    host, colon, port = authority.rpartition(":")
    return is_loopback((host if colon and port.isdigit() and not host.endswith(":") else authority).strip("[]").lower())


def is_forwarded(headers: Mapping[str, str]) -> bool:
    """Whether a proxy says that it speaks for somebody else."""
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

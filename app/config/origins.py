"""Web origins as people write them → as browsers send them in ``Origin``."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

import idna

ANY, OPAQUE = "*", "null"
"""Every origin; and what browsers send for pages that have none: files, sandboxed frames."""

WILDCARD = "*."
"""What a host may begin with, for all names below it."""

PATTERN = r"^\*$|^null$|^[A-Za-z][A-Za-z0-9+.-]*://(\*\.)?[^/?#@\s*]+$"
"""What an origin looks like; for editors."""

_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<wildcard>\*\.)?(?P<host>\[[0-9a-f:.]+\]|[^\s/?#@:\[\]*%]+)(?P<port>:[0-9]{1,5})?"
)
_ASCII_HOST = re.compile(r"\[[0-9a-f:.]+\]|[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.ASCII)
_BELOW_WILDCARD = re.compile(r"(?!.*\.[0-9]+$)[a-z0-9_-]+(\.[a-z0-9_-]+)+|localhost", re.ASCII)
_NUMBER = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)", re.ASCII)
"""What browsers read as an IPv4 address, however it is written."""

SOCKETS = ("ws://", "wss://")
"""Where sockets lead; a page that opens one has the origin of its own address."""

_MAX_PORT = 65535
_DEFAULT_PORTS = {"http": 80, "https": 443}


def parse(text: str) -> str | None:
    """Return the origin as a browser writes it: in lower case, in ASCII, without the scheme's own port.

    None when it is none. A wildcard's host has at least two labels, or ``*.com`` would be half the world.
    """
    if text in (ANY, OPAQUE):
        return text
    match = None if text.lower().startswith(SOCKETS) else _ORIGIN.fullmatch(text.lower())
    if match is None or (host := _in_ascii(match["host"])) is None:
        return None
    if match["wildcard"] and not _BELOW_WILDCARD.fullmatch(host):
        return None
    port = int(match["port"][1:]) if match["port"] else _DEFAULT_PORTS.get(match["scheme"])
    if port is not None and not 0 < port <= _MAX_PORT:
        return None
    shown = "" if port == _DEFAULT_PORTS.get(match["scheme"]) else f":{port}"
    return f"{match['scheme']}://{match['wildcard'] or ''}{host}{shown}"


def _in_ascii(host: str) -> str | None:
    """Return a host's name with its Unicode labels in Punycode; None when it cannot be one.

    As browsers do it, by UTS #46: the standard library's codec knows only the older IDNA 2003, which
    makes another name of ``straße.example``. Stricter than browsers, idna's own encoding refuses emoji.
    """
    if not host.isascii():
        try:
            host = idna.uts46_remap(host, std3_rules=False, transitional=False)
        except idna.IDNAError:
            return None
        host = ".".join(map(_label, host.split(".")))
    return _as_address(host) if _ASCII_HOST.fullmatch(host) else None


def _as_address(host: str) -> str | None:
    """Return a host that is an address as browsers write it; None of one that they write otherwise, such as 127.1."""
    try:
        if host.startswith("["):
            address = IPv6Address(host[1:-1])
            return None if address.ipv4_mapped else f"[{address}]"
        return str(IPv4Address(host)) if _NUMBER.fullmatch(host) else host
    except AddressValueError:
        return None


def _label(label: str) -> str:
    return label if label.isascii() else f"xn--{label.encode('punycode').decode()}"

"""Web origins as people write them → as browsers send them in ``Origin``."""

from __future__ import annotations

import re

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
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def parse(text: str) -> str | None:
    """Return the origin as a browser writes it: in lower case, in ASCII, without the scheme's own port.

    None when it is none. A wildcard's host has at least two labels, or ``*.com`` would be half the world.
    """
    if text in (ANY, OPAQUE):
        return text
    match = _ORIGIN.fullmatch(text.lower())
    if match is None or (host := _in_ascii(match["host"])) is None:
        return None
    if match["wildcard"] and not _BELOW_WILDCARD.fullmatch(host):
        return None
    port = match["port"] or ""
    port = "" if port == _DEFAULT_PORTS.get(match["scheme"]) else port
    return f"{match['scheme']}://{match['wildcard'] or ''}{host}{port}"


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
    return host if _ASCII_HOST.fullmatch(host) else None


def _label(label: str) -> str:
    return label if label.isascii() else f"xn--{label.encode('punycode').decode()}"

"""Turns web origins as people write them into what browsers send in ``Origin``."""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from unicodedata import normalize

import idna

from app.config import patterns

ANY, OPAQUE = "*", "null"
"""Any origin; and what browsers send for pages without one: files, sandboxed frames."""

WILDCARD = "*."
"""What a host may start with, to mean all names below it."""

BEYOND_ASCII = (
    r"\u00a1-\u00a7\u00a9\u00ab-\u00ac\u00ae\u00b0-\u00b1\u00b5-\u00b7\u00bb\u00bf-\u012f\u0131\u0134-\u013e"
    r"\u0141-\u0148\u014a-\u017e\u0180-\u01c3\u01cd-\u01f0\u01f4-\u02af\u02b1\u02b4-\u02b6\u02b9-\u02d7"
    r"\u02de-\u02e0\u02e4-\u034e\u0350-\u0379\u037b-\u037d\u037f-\u0383\u0386-\u05ff\u0606-\u061b\u061d-\u06dc"
    r"\u06de-\u070e\u0710-\u088f\u0892-\u08e1\u08e3-\u115e\u1161-\u167f\u1681-\u17b3\u17b6-\u180a\u1810-\u1d2b"
    r"\u1d2d\u1d2f\u1d32\u1d3b\u1d3d\u1d44-\u1d46\u1d4a-\u1d4c\u1d4e\u1d51\u1d53-\u1d55\u1d59-\u1d5a\u1d5c-\u1d61"
    r"\u1d66-\u1d9b\u1d9d-\u1d9f\u1da1-\u1dba\u1dbc-\u1e99\u1e9b-\u1fbc\u1fbe\u1fc2-\u1fcc\u1fd0-\u1fdc"
    r"\u1fe0-\u1fec\u1ff0-\u1ffc\u1fff\u2010-\u2016\u2018-\u2027\u2030-\u203b\u203d\u203f-\u2046\u204a-\u205e"
    r"\u2065\u2072-\u2073\u207b\u208b\u208f\u2094\u20a0-\u20a7\u20a9-\u20ff\u2104\u2107-\u2108\u210f\u2114"
    r"\u2117-\u2118\u211e-\u211f\u2123\u2125-\u2127\u2129\u212b\u212e\u2132\u2135-\u2138\u213a\u213c-\u2144"
    r"\u214a-\u214f\u2180-\u2188\u218a-\u245f\u2488-\u249b\u24eb-\u2a73\u2a77-\u2c7b\u2c7e-\u2fff\u3001"
    r"\u3003-\u309a\u309d-\u3163\u3165-\u31ff\u321f\u3244-\u324f\u3260-\u32b0\u32d0-\u3357\u337b-\u337f\u33c2"
    r"\u33c7\u33d8\u3400-\ua7f0\ua7f5-\ud7ff\uf900-\ufaff\ufb07-\ufb28\ufb2a-\ufc5d\ufc64-\ufdf9\ufdfc-\ufdff"
    r"\ufe11-\ufe12\ufe17-\ufe32\ufe39-\ufe46\ufe51-\ufe53\ufe58\ufe5d-\ufe5e\ufe67\ufe6c-\ufe6f\ufe71\ufe73\ufe75"
    r"\ufe77\ufe79\ufe7b\ufe7d\ufe7f-\ufefe\uff00\uff5f-\uff60\uff62-\uff9f\uffa1-\uffe2\uffe4-\ufff8\ufffc-\uffff"
)
"""Characters beyond ASCII that a host may have, for a class: those of the Basic Multilingual Plane, but none that
UTS #46 maps to ASCII or to nothing."""

_LABEL = f"[A-Za-z0-9_{BEYOND_ASCII}-]+"
_SCHEME = "(?![Ww][Ss][Ss]?:)[A-Za-z][A-Za-z0-9+.-]*"
_NO_NUMBER = r"(?!(?:[^:]*\.)?(?:[0-9]+|0[Xx][0-9A-Fa-f]*)(?::|(?![\s\S])))"
"""What browsers read as an IPv4 address, however it is written."""

_HOST = rf"(?:{patterns.IPV4}|\[{patterns.IPV6}\]|{_NO_NUMBER}{_LABEL}(?:\.{_LABEL})*)"
_BELOW = rf"\*\.{_NO_NUMBER}(?:{_LABEL}(?:\.{_LABEL})+|{patterns.any_case('localhost')})"
"""A wildcard, and what is below it: two labels at least, or ``*.com`` would be half the world."""

PATTERN = patterns.whole(
    rf"\*|null|{_SCHEME}://(?:{_BELOW}|{_HOST})(?::{patterns.number(1, 65535)})?",
)
"""Pattern of an origin."""

_PARTS = re.compile(r"(?P<scheme>[^:]*)://(?P<wildcard>\*\.)?(?P<host>\[.*\]|[^:]*)(:0*(?P<port>[0-9]+))?")

SOCKETS = ("ws://", "wss://")
"""Schemes of sockets. A page that opens one still has the origin of its own address."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


def parse(text: str) -> str | None:
    """Return the origin as a browser writes it: in lower case, in ASCII, without the scheme's default port.

    None if the text is not an origin.
    """
    if text in (ANY, OPAQUE):
        return text
    match = _PARTS.fullmatch(text) if patterns.fits(PATTERN, text) else None
    if match is None:
        return None
    scheme = match["scheme"].lower()
    port = int(match["port"]) if match["port"] else _DEFAULT_PORTS.get(scheme)
    shown = "" if port == _DEFAULT_PORTS.get(scheme) else f":{port}"
    return f"{scheme}://{match['wildcard'] or ''}{_in_ascii(match['host'])}{shown}"


def _in_ascii(host: str) -> str:
    """Return a host as browsers write it: Unicode labels in Punycode, an IPv6 address in its shortest form.

    Labels follow UTS #46. The standard library's codec knows only the older IDNA 2003, which turns
    ``straße.example`` into another name, and idna's own encoding refuses emoji, which browsers accept.
    """
    if host.startswith("["):
        return f"[{_short(IPv6Address(host[1:-1]))}]"
    mapped = normalize("NFC", "".join(map(_mapped, host)))
    return ".".join(
        label if label.isascii() else f"xn--{label.encode('punycode').decode()}" for label in mapped.split(".")
    )


def _mapped(character: str) -> str:
    try:
        return idna.uts46_remap(character, std3_rules=False, transitional=False)
    except idna.IDNAError:  # no browser is known to send it
        return character


def _short(address: IPv6Address) -> str:
    mapped = address.ipv4_mapped
    if mapped is None:
        return str(address)
    # Newer versions of Python write the inner address in dotted form; browsers do not.
    return f"::ffff:{int(mapped) >> 16:x}:{int(mapped) & 0xFFFF:x}"

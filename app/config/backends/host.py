"""Users, hosts and ports, as the URLs of all servers have them."""

from __future__ import annotations

import re

from app.config import patterns

_CONFUSING = (
    r"\u2047-\u2049\u2100\u2101\u2105\u2106\u2a74\ufe13\ufe16\ufe55\ufe56\ufe5f\ufe6b\uff03\uff0f\uff1a\uff1f\uff20"
)
"""Characters that have one of ``/?#@:`` in them, for a class: URLs may have none in their host or user."""

NONE_OF = patterns.SPACE + "#"
"""What no part of a URL holds, for a class."""

USER = rf"[^@/?\[\]{NONE_OF}{_CONFUSING}]*@"
PORT = patterns.number(1, 65535)
_ADDRESS = rf"\[(?:{patterns.IPV6}|::(?:[Ff]{{4}}:)?{patterns.IPV4})\]"
SERVER = rf"(?:{_ADDRESS}|[^@/?\[\]:,{NONE_OF}{_CONFUSING}]*)(?::{PORT})?"
"""A host, which may be empty, with or without its port."""

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@]*)(:(?P<port>[0-9]{1,5}))?", re.ASCII)
_HIGHEST_PORT = 65535


def is_host(text: str) -> bool:
    """Whether the text is a host with or without a port, or a port after its colon."""
    match = _HOST.fullmatch(text)
    return match is not None and (match["port"] is None or 0 < int(match["port"]) <= _HIGHEST_PORT)

"""The backend's URL: its schemes, its check, and how to show it without secrets."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

from app.config import patterns
from app.config.diagnostics import did_you_mean, listed

AVAILABLE = ("memory", "postgres", "postgresql")
"""The schemes that are available now."""

KNOWN = ("memory", "postgres", "postgresql", "redis", "rediss", "redis-stream", "kafka")

_CONFUSING = (
    r"\u2047-\u2049\u2100\u2101\u2105\u2106\u2a74\ufe13\ufe16\ufe55\ufe56\ufe5f\ufe6b\uff03\uff0f\uff1a\uff1f\uff20"
)
"""Characters that have one of ``/?#@:`` in them, for a class: URLs may have none in their host or user."""

_NONE_OF = patterns.SPACE + "#"
_USER = rf"[^@/?\[\]{_NONE_OF}{_CONFUSING}]*@"
_PORT = patterns.number(1, 65535)
_ADDRESS = rf"\[(?:{patterns.IPV6}|::(?:[Ff]{{4}}:)?{patterns.IPV4})\]"
_SERVER = rf"(?:{_ADDRESS}|[^@/?\[\]:,{_NONE_OF}{_CONFUSING}]*)(?::{_PORT})?"
_PARAMETER = rf"(?:(?!port=)[^&={_NONE_OF}]*=[^&{_NONE_OF}]*|port={_PORT}(?:,{_PORT})*)"
_POSTGRES_URL = (
    rf"{patterns.any_case('postgres')}(?:{patterns.any_case('ql')})?(?:\+[A-Za-z0-9_+.-]{{0,20}})?://"
    rf"(?:{_USER})?{_SERVER}(?:,{_SERVER})*(?:/[^?@{_NONE_OF}]*)?(?:\?(?:{_PARAMETER}(?:&{_PARAMETER})*)?)?"
)
_POSTGRES_PATTERN = patterns.whole(_POSTGRES_URL)

PATTERN = patterns.whole(
    rf"[{patterns.BLANKS}]*(?:{patterns.any_case('memory')}://[\s\S]*|{_POSTGRES_URL}[{patterns.BLANKS}]*)"
)
"""Pattern of a backend's URL that can be served."""

_POSTGRES = ("postgres", "postgresql")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9_+.-]{0,30})://", re.ASCII)
_USER_INFO = re.compile(r"(?<=://).*@", re.DOTALL)
_AFTER_PATH = re.compile(r"[?#].*", re.DOTALL)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@]*)(:(?P<port>[0-9]{1,5}))?", re.ASCII)
_HIGHEST_PORT = 65535


def kind(url: str) -> str:
    """Return the kind of backend: the scheme in lower case, and ``postgres`` for every spelling of Postgres.

    Hosts hand out ``postgresql://`` and, for SQLAlchemy, ``postgresql+asyncpg://`` as well.
    """
    match = _SCHEME.match(url)
    scheme = match[1].lower() if match else ""
    return "postgres" if scheme.partition("+")[0] in _POSTGRES else scheme


def refusal(url: str) -> str | None:
    """Return why the URL cannot be a backend's; None if it can. The text shows only the scheme."""
    found = kind(url)
    if found == "postgres":
        return _postgres_refusal(url)
    if found in AVAILABLE:
        return None
    usable = listed(f"{scheme}://" for scheme in AVAILABLE)
    if found in KNOWN:
        return f"{found}:// is not yet available: write {usable}"
    if not found:
        return f"must be a URL that starts with {usable}{_hint(url)}"
    return f"there is no backend {found}://{did_you_mean(found, AVAILABLE)}: write {usable}"


def _hint(url: str) -> str:
    """Return what to do about a URL without a scheme, from what people paste."""
    if url.startswith("$"):
        return ": write a variable as ${NAME}"
    if re.search(r"postgres(?:ql)?://", url):
        return ": remove what is before it, such as a quote, a name or a command"
    return ""


def direct_refusal(url: str) -> str | None:
    """Return why the URL cannot be that of a Postgres without its pooler; None if it can. It is never shown."""
    if kind(url) != "postgres":
        return f"must be a URL that starts with {listed(f'{scheme}://' for scheme in _POSTGRES)}{_hint(url)}"
    return _postgres_refusal(url)


def mask(url: str) -> str:
    """Return the URL with its user, password and parameters hidden."""
    return _AFTER_PATH.sub("?***", _USER_INFO.sub("***@", url))


def _postgres_refusal(url: str) -> str | None:
    expected = "this is not a URL such as postgres://user:password@host:5432/database (it is not shown here)"
    if patterns.fits(_POSTGRES_PATTERN, url):
        return None
    if any(character.isspace() for character in url):
        return f"{expected}: it holds a space or a line break"
    try:
        # urlsplit does not accept every driver's name as part of the scheme.
        parts = urlsplit("postgres" + url[url.index("://") :])
        parameters = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        return f"{expected}: it cannot be parsed"
    user_info, _, hosts = parts.netloc.rpartition("@")
    if "@" in user_info + parts.path or "#" in url:
        return f"{expected}: write @, #, / and ? in the user or password as %40, %23, %2F and %3F"
    ports = [f":{port}" for given in parameters.get("port", []) for port in given.split(",")]
    if not all(map(_is_host, [*hosts.split(","), *ports])):
        return f"{expected}: its host or port is wrong"
    return f"{expected}: it cannot be parsed"


def _is_host(text: str) -> bool:
    match = _HOST.fullmatch(text)
    return match is not None and (match["port"] is None or 0 < int(match["port"]) <= _HIGHEST_PORT)

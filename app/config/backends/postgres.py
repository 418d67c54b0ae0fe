"""URLs of PostgreSQL, as libpq and hosts write them."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from app.config import patterns
from app.config.backends import host

_PARAMETER = rf"(?:(?!port=)[^&={host.NONE_OF}]*=[^&{host.NONE_OF}]*|port={host.PORT}(?:,{host.PORT})*)"
PATTERN = (
    rf"{patterns.any_case('postgres')}(?:{patterns.any_case('ql')})?(?:\+[A-Za-z0-9_+.-]{{0,20}})?://"
    rf"(?:{host.USER})?{host.SERVER}(?:,{host.SERVER})*(?:/[^?@{host.NONE_OF}]*)?"
    rf"(?:\?(?:{_PARAMETER}(?:&{_PARAMETER})*)?)?"
)
"""Hosts hand out ``postgresql://`` and, for SQLAlchemy, ``postgresql+asyncpg://`` as well."""

_WHOLE = patterns.whole(PATTERN)


def refusal(url: str) -> str | None:
    """Return why the URL cannot be that of a Postgres; None if it can. The text shows nothing of it."""
    expected = "this is not a URL such as postgres://user:password@host:5432/database (it is not shown here)"
    if patterns.fits(_WHOLE, url):
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
    if not all(map(host.is_host, [*hosts.split(","), *ports])):
        return f"{expected}: its host or port is wrong"
    return f"{expected}: it cannot be parsed"

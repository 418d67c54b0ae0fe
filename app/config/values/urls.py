"""The other servers that are asked: their URLs, what they get, and how long they may take."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

from app.config.patterns import BLANKS, IPV4, IPV6, OCTET, any_case, fits, number, whole
from app.config.values import units
from app.config.values.fields import refuse, show, text_schema
from app.config.yaml.document import Unquoted

MIN_TIMEOUT, MAX_TIMEOUT = 100, 30_000
"""Milliseconds."""

NEVER_FORWARDED = (
    "connection", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "accept-encoding",
    "range",
)  # fmt: skip
"""Headers that are about one connection and its bytes, not about the caller."""

NEVER_BEGINNING = ("content-", "if-", "proxy-", "sec-websocket-")
"""How others of them begin."""

_MILLISECONDS = {"ms": 1, "s": 1000}

_ENCODED = "%[0-9A-Fa-f]{2}"
_IN_PATH = rf"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|{_ENCODED})"
_IN_QUERY = rf"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|{_ENCODED})"
_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = rf"(?:(?:{_LABEL}\.)*(?=[0-9]*[A-Za-z_-]){_LABEL}|\[{IPV6}\]|{IPV4})"
"""A name does not end with a number: that would be an address."""
_LOOPBACK = rf"(?:{any_case('localhost')}|127\.{OCTET}\.{OCTET}\.{OCTET}|\[::1\])"
_REST = rf"(?::{number(1, 65535)})?(?:/{_IN_PATH}*)?(?:\?{_IN_QUERY}*)?"
_URL = rf"(?:{any_case('https')}://{_HOST}|{any_case('http')}://{_LOOPBACK}){_REST}"
_PATTERN = whole(rf"[{BLANKS}]*(?:{_URL}[{BLANKS}]*)?")

_EXAMPLE = "https://login.example/path"


def _url(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or isinstance(value, Unquoted):
        refuse(f"write a URL such as {_EXAMPLE}, not {show(value)}")
    url = value.strip(BLANKS)
    if not fits(_PATTERN, url):
        refuse(f"{_fault(url)} (it is not shown here)")
    return str(url) or None


def _fault(url: str) -> str:
    """Return what is wrong with a URL, which may have a secret in it."""
    scheme, colon, rest = url.partition("://")
    if not colon or scheme.lower() not in ("http", "https"):
        return f"this is not a URL such as {_EXAMPLE}"
    host = rest.partition("/")[0]
    if "#" in rest:
        return "write the URL without a fragment (#…)"
    if "@" in host:
        return "write the URL without a user and a password"
    if scheme.lower() == "http" and fits(_PATTERN, f"https://{rest}"):
        return "write https://: http:// is only for this machine (localhost, 127.0.0.1 or [::1])"
    return f"this is not a URL such as {_EXAMPLE}"


def _header(value: object) -> str:
    if not isinstance(value, str) or isinstance(value, Unquoted) or not fits(_HEADER_ALPHABET, value):
        refuse(f"write the name of a header, as in cookie or authorization, not {show(value)}")
    if not fits(_HEADER, value):
        refuse(f"{value.lower()} is never forwarded: it is about the connection, not about the caller")
    return str(value).lower()


_HEADER_ALPHABET = whole("[A-Za-z][A-Za-z0-9-]{0,63}")
_NEVER = "|".join(
    [rf"{any_case(name)}(?![\s\S])" for name in NEVER_FORWARDED] + [any_case(name) for name in NEVER_BEGINNING]
)
_HEADER = whole(rf"(?!{_NEVER})[A-Za-z][A-Za-z0-9-]{{0,63}}")


def _timeout(value: object) -> float:
    amount = None
    if isinstance(value, str) and not isinstance(value, Unquoted):
        whole_seconds = units.amount(str(value), {})
        amount = units.amount(str(value), _MILLISECONDS) if whole_seconds is None else whole_seconds * 1000
    elif isinstance(value, int) and not isinstance(value, bool):
        amount = value * 1000
    if amount is None:
        refuse(f"write whole seconds, 500ms or 2s, not {show(value)}")
    if not MIN_TIMEOUT <= amount <= MAX_TIMEOUT:
        refuse(f"must be from {MIN_TIMEOUT}ms to {MAX_TIMEOUT // 1000}s, not {show(value)}")
    return amount / 1000


_SECONDS = number(1, MAX_TIMEOUT // 1000)
_TIMEOUT = whole(rf"{_SECONDS}(?: ?s)?|{number(MIN_TIMEOUT, MAX_TIMEOUT)} ?ms")

Url = Annotated[
    str | None,
    BeforeValidator(_url),
    WithJsonSchema({"anyOf": [{"type": "null"}, *text_schema(_PATTERN)["anyOf"]]}),
]
"""A URL that is asked; None if there is none."""

HeaderName = Annotated[str, BeforeValidator(_header), WithJsonSchema(text_schema(_HEADER))]
"""A header of the caller's that may be passed on, in lower case."""

Timeout = Annotated[
    float,
    BeforeValidator(_timeout),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT // 1000}, *text_schema(_TIMEOUT)["anyOf"]]}
    ),
]
"""How long an answer may take, in seconds."""

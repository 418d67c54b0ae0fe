"""Secrets in log lines, and what replaces them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from structlog.typing import EventDict, WrappedLogger

MASK = "***"
"""Replaces a secret in a log line."""

_SECRET_NAME = re.compile(r"(?i)(?:^|[_\-.])(?:authorization|cookie|passw(?:or)?d|secret|token|jwt|key)s?$")

# In order: a URL's password (a backend's may hold any character, a web address's ends at its
# path); name=value of queries and reprs; "name": "value" of dicts; credentials; bare JWTs.
_SECRET_TEXT = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?i)((?<!http)(?<!https)(?<!ws)(?<!wss)://[^\s/:@]*:)\S*@", rf"\1{MASK}@"),
        (r"(?i)((?:http|ws)s?://[^\s/:@]*:)[^\s/?#]*@", rf"\1{MASK}@"),
        (r"(?i)((?:passw(?:or)?d|secret|token|jwt|key|ticket)s?=[\"']?)[^\s&\"'#;,)]+", rf"\1{MASK}"),
        (r"(?im)^([<>] (?:[a-z]+-)?(?:authorization|cookie): ).*", rf"\1{MASK}"),  # as websockets logs headers
        (
            r"(?i)((?:authorization|cookie|passw(?:or)?d|secret|token|jwt|key)s?[\"']\s*:\s*b?[\"'])[^\"']+",
            rf"\1{MASK}",
        ),
        (r"(?i)\b(bearer[ .])[\w.~+/=-]+", rf"\1{MASK}"),
        (r"\beyJ[\w-]+\.[\w-]+\.[\w-]+", MASK),
    )
)


def mask_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace secrets in an event at any depth: by the names of fields, and by what values look like."""
    return {name: _masked(name, value) for name, value in event.items()}


def needs_no_mask(event: Mapping[str, object], line: str) -> bool:
    """Whether an event has no secret, because nothing in its JSON text begins like one.

    Its fields must be flat and have harmless names. A backslash gives away a quote inside a value.
    """
    return _are_harmless(tuple(event)) and not (
        line.find("{", 1) > 0 or "[" in line or '\\"' in line or "'" in line or _is_suspicious(line)
    )


def _masked(name: object, value: object) -> object:  # noqa: PLR0911 — a table of types
    if value is None or value is True or value is False:
        return value
    if type(name) is str and _is_secret(name):
        return MASK
    if type(value) is str:
        return _mask_text(value)
    if isinstance(value, int | float):
        return value
    if isinstance(value, Mapping):
        return {key: _masked(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked(None, item) for item in value]
    return _mask_text(value.decode(errors="replace") if isinstance(value, bytes) else str(value))


@lru_cache(maxsize=1000)
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


@lru_cache(maxsize=1000)
def _are_harmless(names: tuple[str, ...]) -> bool:
    return not any(map(_is_secret, names))


def _mask_text(text: str) -> str:
    if not (_is_suspicious(text) or "'" in text or '"' in text):
        return text
    for pattern, replacement in _SECRET_TEXT:
        text = pattern.sub(replacement, text)
    return text


def _is_suspicious(text: str) -> bool:
    """Whether one of the patterns could match, except the one that needs a quote."""
    if "://" in text or "=" in text or "eyJ" in text:
        return True
    lower = text.lower()
    return "bearer" in lower or "authorization" in lower

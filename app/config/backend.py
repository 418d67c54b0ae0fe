"""The backend's URL: which schemes there are, and how to show a URL without its secrets."""

from __future__ import annotations

import re

from app.config.problems import did_you_mean, listed

AVAILABLE = frozenset({"memory"})
"""The schemes that can be served now."""

KNOWN = ("memory", "postgres", "postgresql", "redis", "rediss", "redis-stream", "kafka")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30})://", re.ASCII)
_USER_INFO = re.compile(r"(?<=://).*@", re.DOTALL)
_AFTER_PATH = re.compile(r"[?#].*", re.DOTALL)


def scheme(url: str) -> str:
    """Return the scheme of a URL, or the empty string."""
    match = _SCHEME.match(url)
    return match[1].lower() if match else ""


def refusal(url: str) -> str | None:
    """Return why the URL cannot be a backend, or None. Of the URL only the scheme is ever shown."""
    found = scheme(url)
    usable = listed(f"{known}://" for known in KNOWN if known in AVAILABLE)
    if found in AVAILABLE:
        return None
    if found in KNOWN:
        return f"{found}:// is not yet available: write {usable}"
    known = listed(f"{known}://" for known in KNOWN)
    if not found:
        return f"must be a URL that starts with {known}"
    return f"there is no backend {found}://{did_you_mean(found, KNOWN)}: write {known}"


def mask(url: str) -> str:
    """Return the URL with its user, password and parameters hidden."""
    return _AFTER_PATH.sub("?***", _USER_INFO.sub("***@", url))

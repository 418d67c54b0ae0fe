"""The backend's URL: which engine it names, why it is refused, and how to show it without secrets."""

from __future__ import annotations

import re
from collections.abc import Callable

from app.config import patterns
from app.config.backends import kafka, postgres, redis, sqlite
from app.config.diagnostics import did_you_mean, listed
from app.core.engines import ENGINES

_NAMES = {scheme: engine.name for engine in ENGINES.values() for scheme in engine.schemes}
"""The engine of each scheme."""

_REFUSALS: dict[str, Callable[[str], str | None]] = {
    "postgres": postgres.refusal,
    "kafka": kafka.refusal,
    "redis": redis.live_refusal,
    "redis-stream": redis.stream_refusal,
    "sqlite": sqlite.refusal,
}
"""What refuses the URLs of an engine; any URL of the others will do."""

PATTERN = patterns.whole(
    rf"[{patterns.BLANKS}]*(?:{patterns.any_case('memory')}://[\s\S]*|(?:{postgres.PATTERN}|{sqlite.PATTERN}|"
    rf"{redis.LIVE_PATTERN}|{redis.STREAM_PATTERN}|{kafka.PATTERN})[{patterns.BLANKS}]*)"
)
"""Pattern of a backend's URL that can be served."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9_+.-]{0,30})://", re.ASCII)
_USER_INFO = re.compile(r"(?<=://).*@", re.DOTALL)
_AFTER_PATH = re.compile(r"[?#].*", re.DOTALL)


def kind(url: str) -> str:
    """Return the name of the engine in :data:`~app.core.engines.ENGINES`; for an unknown one its scheme, or "".

    What follows a plus may name a driver, as in ``postgresql+asyncpg://``.
    """
    match = _SCHEME.match(url)
    scheme = match[1].lower() if match else ""
    return _NAMES.get(scheme) or _NAMES.get(scheme.partition("+")[0], scheme)


def refusal(url: str) -> str | None:
    """Return why the URL cannot be a backend's; None if it can. The text shows only the scheme."""
    found = kind(url)
    if found in ENGINES:
        return _REFUSALS[found](url) if found in _REFUSALS else None
    usable = listed(f"{scheme}://" for scheme in _NAMES if "+" not in scheme)
    if not found:
        return f"must be a URL that starts with {usable}{_hint(url)}"
    return f"there is no backend {found}://{did_you_mean(found, tuple(_NAMES))}: write {usable}"


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
        schemes = ENGINES["postgres"].schemes
        return f"must be a URL that starts with {listed(f'{scheme}://' for scheme in schemes)}{_hint(url)}"
    return postgres.refusal(url)


def mask(url: str) -> str:
    """Return the URL with its user, password and parameters hidden."""
    return _AFTER_PATH.sub("?***", _USER_INFO.sub("***@", url))

"""What is read of a token's claims. A claim of a wrong type refuses the whole token.

The claims are JSON values, so what is neither a text, a number, a list nor an object is true, false or null.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from app.access.refusal import refuse
from app.core.rights.token import Rights, claim

MAX_GRANTS = 100
"""The most entries of one list of grants."""

LONGEST_SUBJECT = 255
"""The most characters of ``sub`` and ``jti``."""

_LATEST = 253_402_300_799  # the last second of the year 9999

Claims = Mapping[str, Any]


def time_of(claims: Claims, name: str) -> float | None:
    """Return a time in seconds since the Unix epoch; None if there is no such claim."""
    moment = claims.get(name)
    if moment is None and name not in claims:
        return None
    if moment.__class__ is not int and moment.__class__ is not float:  # so true and false are none
        refuse(f"its '{name}' is no number of seconds")
    if not 0 <= moment <= _LATEST:  # so it is finite, too
        refuse(f"its '{name}' is no time")
    return float(moment)


def text_of(claims: Claims, name: str, longest: int = LONGEST_SUBJECT) -> str | None:
    """Return a printable text; None if there is no such claim."""
    text = claims.get(name)
    if text is None and name not in claims:
        return None
    if not isinstance(text, str) or not 0 < len(text) <= longest or not text.isprintable():
        refuse(f"its '{name}' is no text of 1 to {longest} printable characters")
    return text


def audiences_of(claims: Claims) -> list[str]:
    """Return the members of ``aud``."""
    found = claims.get("aud", [])
    audiences = [found] if isinstance(found, str) else found
    if not isinstance(audiences, list) or not all(isinstance(audience, str) for audience in audiences):
        refuse("its 'aud' is neither a text nor a list of texts")
    return audiences


def rights_of(claims: Claims, publish: str, subscribe: str) -> Rights:
    """Return what the grants at these paths give."""
    published, subscribed = claims.get(publish), claims.get(subscribe)
    if published.__class__ is not list:
        published = _listed(claims, publish)
    if subscribed.__class__ is not list:
        subscribed = _listed(claims, subscribe)
    given = publish, tuple(published), subscribe, tuple(subscribed)
    try:
        return _shared(*given)
    except TypeError:  # an entry is a list or an object, which has no hash
        return _checked(*given)


def _listed(claims: Claims, path: str) -> list[object]:
    found = claim(claims, path)
    if found is not None and not isinstance(found, list):
        refuse(f"its '{path}' is no list of texts")
    return found or []


def _checked(publish: str, published: tuple[object, ...], subscribe: str, subscribed: tuple[object, ...]) -> Rights:
    return Rights(_grants(publish, published), _grants(subscribe, subscribed))


def _grants(path: str, entries: tuple[object, ...]) -> frozenset[str]:
    grants = [entry for entry in entries if isinstance(entry, str)]
    if len(grants) < len(entries):
        refuse(f"its '{path}' is no list of texts")
    if len(grants) > MAX_GRANTS:
        refuse(f"its '{path}' has more than {MAX_GRANTS} entries")
    return frozenset(grants)


_shared = lru_cache(maxsize=1024)(_checked)
"""The tokens of many users give the same rights. Nothing else is equal to a text: what was checked once is right."""

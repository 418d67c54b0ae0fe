"""What a verified token says, and the rights that a token or a key gives."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple


class Verb(StrEnum):
    """What a policy is about."""

    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"


class Rights(NamedTuple):
    """The channels that a key or a token gives access to: names, and families with ``*`` for their parameter."""

    publish: frozenset[str] | None = None
    """None for every channel."""
    subscribe: frozenset[str] | None = None
    """None for every channel."""

    def cover(self, verb: Verb, name: str, family: str | None) -> bool:
        """Whether they cover a channel; ``family`` has ``*`` for its parameter, and is None for a plain channel."""
        granted = self.publish if verb is Verb.PUBLISH else self.subscribe
        return granted is None or name in granted or (family is not None and family in granted)


EVERYTHING = Rights()


class Token(NamedTuple):
    """A verified token. Times are seconds since the Unix epoch."""

    sub: str | None
    jti: str | None
    issued: float | None
    expires: float
    """Requests are refused from then on: ``exp`` and the leeway."""
    ends: float
    """What is connected with the token ends then: a little later, so that not all of one moment end together."""
    rights: Rights
    claims: Mapping[str, Any]
    """All claims."""
    signer: bytes
    """Identifies the key that verified it, with the issuer and the audience that it was checked for."""


def claim(claims: Mapping[str, Any], path: str) -> object:
    """Return the claim at a path such as ``app_metadata.org_id``; None if there is none.

    A name may have dots itself, as in ``https://example.com/org``: the longest name that is there is taken.
    """
    if path in claims:
        return claims[path]
    end = path.rfind(".")
    while end > 0:
        inner = claims.get(path[:end])
        if isinstance(inner, Mapping):
            return claim(inner, path[end + 1 :])
        end = path.rfind(".", 0, end)
    return None


def values(found: object) -> tuple[str, ...]:
    """Return the texts that a claim admits: itself, or each of its elements; whole numbers count as texts."""
    if isinstance(found, list):
        return tuple(text for element in found if not isinstance(element, list) for text in values(element))
    if isinstance(found, str):
        return (found,)
    return (str(found),) if isinstance(found, int) and not isinstance(found, bool) else ()

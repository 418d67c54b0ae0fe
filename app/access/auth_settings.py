"""What ``auth`` in channels.yaml says, checked."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.core.rights.token import EVERYTHING, Rights


@dataclass(frozen=True, slots=True)
class Key:
    """One of ``auth.keys``."""

    secret: bytes = field(repr=False)
    name: str | None = None
    """For logs; None for a key that is written as a text."""
    rights: Rights = EVERYTHING
    may_revoke: bool = True
    """Whether it may take tokens back."""


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """How tokens are verified. Durations are seconds."""

    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    """HS256: any of them verifies, the first signs."""
    jwks: str | None = None
    """The URL of the issuer's public keys."""
    issuer: str | None = None
    """None for any."""
    audience: str | None = None
    """None for any."""
    max_lifetime: int = 24 * 3600
    """The longest time from now to ``exp``."""
    leeway: int = 30
    cookie: str | None = None
    """The cookie that carries the token; None for none."""
    publish_claim: str = "publish"
    """The claim that has the grants to publish."""
    subscribe_claim: str = "subscribe"


@dataclass(frozen=True, slots=True)
class AskSettings:
    """The application that is asked who may publish and subscribe."""

    url: str
    forward: tuple[str, ...]
    """Names of the caller's headers that it gets, in lower case."""
    timeout: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class AuthSettings:
    """The whole of ``auth``."""

    keys: tuple[Key, ...] = ()
    tokens: TokenSettings | None = None
    ask: AskSettings | None = None

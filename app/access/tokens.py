"""Verifies tokens: JSON Web Tokens (RFC 7519), signed with a configured secret or by a key of the issuer's JWKS.

The algorithm comes from what is configured, never from the token (RFC 8725 §3.1).
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from app.access import compact
from app.access.auth_settings import TokenSettings
from app.access.claims import audiences_of, rights_of, text_of, time_of
from app.access.compact import HS256, LONGEST_TOKEN, Hmac
from app.access.refusal import refuse
from app.core.rights.token import Rights, Token

_MOST_KNOWN = 4096
_MOST_KNOWN_CHARACTERS = 2 * 1024 * 1024  # claims may take 20 bytes of memory for each
_SPREAD_SECONDS = 30.0

IsRevoked = Callable[[str | None, str | None, float | None], bool]
"""Says whether a token with this ``sub``, ``jti`` and ``iat`` was taken back."""


class KeyNeededError(Exception):
    """The key that signed the token is not known yet: ask the issuer for ``kid``, and verify again."""

    def __init__(self, kid: str | None) -> None:
        super().__init__(kid)
        self.kid = kid


class Keys(Protocol):
    """The issuer's public keys, as they are known now."""

    generation: int
    """Differs after each change of the keys."""

    def find(self, kid: str | None, alg: str) -> Any | None:  # noqa: ANN401 — PyJWT's, which is imported late
        """Return the key that may verify a signature by ``alg``; None if there is none."""

    def is_stale_for(self, kid: str | None) -> bool:
        """Whether it helps to ask the issuer for this key."""

    async def refresh(self, kid: str | None) -> None:
        """Ask the issuer. Raises :class:`~app.core.errors.UnavailableError`."""


def _never(sub: str | None, jti: str | None, issued: float | None) -> bool:  # noqa: ARG001
    return False


class Tokens:
    """Verifies tokens by one configuration, and remembers those that were good."""

    def __init__(
        self,
        settings: TokenSettings,
        keys: Keys | None = None,
        is_revoked: IsRevoked = _never,
        now: Callable[[], float] = time.time,
    ) -> None:
        # Here, because a server without tokens does without the library's memory.
        from jwt import PyJWS  # noqa: PLC0415

        self._jws = PyJWS()
        self._settings = settings
        self._keys = keys
        self._is_revoked = is_revoked
        self._now = now
        self._known: dict[bytes, Token] = {}
        self._known_characters = 0
        self._generation = 0
        """Of the issuer's keys, when the known tokens were verified."""
        self._secrets = [(Hmac(secret), self._signer(secret)) for secret in settings.secrets]
        self._issuer = self._signer(f"jwks {settings.jwks}".encode())

    @property
    def generation(self) -> int:
        """Differs after each change of the issuer's keys."""
        return 0 if self._keys is None else self._keys.generation

    def verify(self, raw: str, digest: bytes) -> Token:
        """Return what a token says; ``digest`` is its SHA-256.

        Raises :class:`TokenError`, and :class:`KeyNeededError` if the issuer must be asked first.
        """
        if self._keys is not None and self._keys.generation != self._generation:
            self._known, self._known_characters, self._generation = {}, 0, self._keys.generation
        token = self._known.get(digest)
        if token is not None:
            self.check(token)
            return token
        token = self._open(raw)
        self.check(token)
        self._known_characters += len(raw)
        if len(self._known) >= _MOST_KNOWN or self._known_characters > _MOST_KNOWN_CHARACTERS:
            self._known.clear()
            self._known_characters = len(raw)
        self._known[digest] = token
        return token

    async def verify_later(self, raw: str, digest: bytes) -> Token:
        """Return what :meth:`verify` does, after asking the issuer for its keys if need be.

        Raises :class:`TokenError`, and :class:`~app.core.errors.UnavailableError` if the issuer cannot be asked.
        """
        try:
            return self.verify(raw, digest)
        except KeyNeededError as needed:
            assert self._keys is not None  # noqa: S101 — only they are needed
            await self._keys.refresh(needed.kid)
        try:
            return self.verify(raw, digest)
        except KeyNeededError:
            refuse("its issuer has no key that fits its signature")

    def check(self, token: Token) -> None:
        """Raise :class:`TokenError` if a token has expired or was taken back since it was verified."""
        if self._now() >= token.expires:
            refuse("it has expired")
        if self._is_revoked(token.sub, token.jti, token.issued):
            refuse("it was taken back")

    def judge(self, token: Token) -> Token:
        """Return a token that other settings have verified, under these; raise :class:`TokenError` to refuse it."""
        if token.signer != self._issuer and all(token.signer != signer for _, signer in self._secrets):
            refuse("what it was verified with is no longer configured")
        self.check(token)
        return token._replace(rights=self._rights(token.claims))

    def read_claims(self, claims: Mapping[str, Any], signer: bytes) -> Token:
        """Return the token with these claims, which other settings may have verified by ``signer``.

        Raises :class:`TokenError`.
        """
        return self.judge(self._read(claims, signer))

    def _signer(self, key: bytes) -> bytes:
        """Identify a key together with everything else that its tokens are held against."""
        settings = self._settings
        held = json.dumps([settings.issuer, settings.audience]).encode()
        return hashlib.sha256(hashlib.sha256(held).digest() + hashlib.sha256(key).digest()).digest()

    def _open(self, raw: str) -> Token:
        """Return what a token says, which may have expired or been taken back."""
        signed, head, payload, signature = compact.split(raw)
        alg, kid = compact.read_header(head)
        if alg == HS256 and self._secrets:
            signer = None
            for secret, its in self._secrets:
                if secret.has_made(signature, signed):
                    signer = its
                    break
            if signer is None:
                refuse("its signature is of no configured secret")
        else:
            signer = self._verify_issuers(signed, signature, alg, kid)
        claims = compact.read_object(payload)
        if claims is None:
            refuse("its payload is no JSON object")
        return self._read(claims, signer)

    def _verify_issuers(self, signed: bytes, signature: bytes, alg: object, kid: object) -> bytes:
        """Verify a signature of the issuer, and return what identifies it."""
        if self._keys is None or not isinstance(alg, str) or not isinstance(kid, str | None):
            refuse("it is not signed with what is configured")
        key = self._keys.find(kid, alg)
        if key is None:
            if self._keys.is_stale_for(kid):
                raise KeyNeededError(kid)
            refuse("its issuer has no key that fits its signature")
        if not self._jws.get_algorithm_by_name(alg).verify(signed, key.key, signature):
            refuse("its signature is not that of its issuer's key")
        return self._issuer

    def _read(self, claims: Mapping[str, Any], signer: bytes) -> Token:
        settings, now = self._settings, self._now()
        exp = time_of(claims, "exp")
        if exp is None:
            refuse("it has no 'exp'")
        leeway = settings.leeway
        longest = settings.max_lifetime + leeway
        if exp - now > longest:
            refuse("it lives longer than auth.tokens.max_lifetime")
        issued = time_of(claims, "iat")
        not_before = time_of(claims, "nbf") if "nbf" in claims else None
        if issued is not None:
            if exp - issued > longest:  # it would live longer than its revocation is kept
                refuse("it lives longer than auth.tokens.max_lifetime")
            if issued > now + leeway:
                refuse("its 'iat' is in the future")
        if not_before is not None and not_before > now + leeway:
            refuse("its 'nbf' is in the future")
        issuer = text_of(claims, "iss", LONGEST_TOKEN) if "iss" in claims else None
        audiences = audiences_of(claims) if "aud" in claims else ()
        if settings.issuer is not None and issuer != settings.issuer:
            refuse("its 'iss' is not auth.tokens.issuer")
        if settings.audience is not None and settings.audience not in audiences:
            refuse("its 'aud' is not auth.tokens.audience")
        expires = exp + leeway
        spread = min(_SPREAD_SECONDS, max(0.0, exp - (now if issued is None else issued)) / 10)
        ends = expires + random.random() * 0.75 * spread  # noqa: S311 — it spreads load
        sub = text_of(claims, "sub")
        jti = text_of(claims, "jti") if "jti" in claims else None
        return Token(sub, jti, issued, expires, ends, self._rights(claims), claims, signer)

    def _rights(self, claims: Mapping[str, Any]) -> Rights:
        return rights_of(claims, self._settings.publish_claim, self._settings.subscribe_claim)


def digest_of(credential: str) -> bytes:
    """Return the digest by which a credential is known."""
    return hashlib.sha256(credential.encode("utf-8", "surrogatepass")).digest()


def sign(settings: TokenSettings, claims: Mapping[str, Any]) -> str:
    """Return a token with these claims, signed with the first secret."""
    from jwt import encode  # noqa: PLC0415

    return encode(dict(claims), settings.secrets[0], HS256)

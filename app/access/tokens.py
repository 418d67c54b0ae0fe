"""Verifies tokens: JSON Web Tokens (RFC 7519), signed with a configured secret or by a key of the issuer's JWKS.

The algorithm comes from what is configured, never from the token (RFC 8725 §3.1).
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import json
import random
import string
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NoReturn, Protocol

import orjson

from app.access.auth_settings import TokenSettings
from app.core.rights.token import Rights, Token, claim

LONGEST_TOKEN = 8192
"""The most characters of a token."""

LONGEST_HEADER = 2048
"""The most characters of its header, which is read before the signature is verified: reading it must cost little."""

MAX_GRANTS = 100
"""The most entries of one list of grants."""

LONGEST_SUBJECT = 255
"""The most characters of ``sub`` and ``jti``."""

_LATEST = 253_402_300_799  # the last second of the year 9999
_MOST_KNOWN = 4096
_MOST_KNOWN_CHARACTERS = 2 * 1024 * 1024  # claims may take 20 bytes of memory for each
_SPREAD_SECONDS = 30.0
_HS256 = "HS256"
_PARTS = 3
_OF_COMPACT = (string.ascii_letters + string.digits + "-_.").encode()
"""The characters of a token in compact form: parts of base64url, and the dots between them (RFC 7515 §7.1)."""
_FROM_URL = bytes.maketrans(b"-_", b"+/")

IsRevoked = Callable[[str | None, str | None, float | None], bool]
"""Says whether a token with this ``sub``, ``jti`` and ``iat`` was taken back."""


class TokenError(Exception):
    """The token is not good; the text says why, and shows nothing of it."""


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
        self._secrets = [(_Hmac(secret), self._signer(secret)) for secret in settings.secrets]
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
        if token is None:
            token = self._read(*self._open(raw))
            self.check(token)
            self._remember(token, digest, len(raw))
        else:
            self.check(token)
        return token

    def _remember(self, token: Token, digest: bytes, characters: int) -> None:
        self._known_characters += characters
        if len(self._known) >= _MOST_KNOWN or self._known_characters > _MOST_KNOWN_CHARACTERS:
            self._known.clear()
            self._known_characters = characters
        self._known[digest] = token

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
            _refuse("its issuer has no key that fits its signature")

    def check(self, token: Token) -> None:
        """Raise :class:`TokenError` if a token has expired or was taken back since it was verified."""
        if self._now() >= token.expires:
            _refuse("it has expired")
        if self._is_revoked(token.sub, token.jti, token.issued):
            _refuse("it was taken back")

    def judge(self, token: Token) -> Token:
        """Return a token that other settings have verified, under these; raise :class:`TokenError` to refuse it."""
        if token.signer != self._issuer and all(token.signer != signer for _, signer in self._secrets):
            _refuse("what it was verified with is no longer configured")
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

    def _open(self, raw: str) -> tuple[Mapping[str, Any], bytes]:
        """Return a token's claims and what has verified it."""
        if len(raw) > LONGEST_TOKEN:
            _refuse(f"it has more than {LONGEST_TOKEN} characters")
        head, payload, signature = _parts(raw)
        if len(head) > LONGEST_HEADER:
            _refuse(f"its header has more than {LONGEST_HEADER} characters")
        signer = self._verify(b"%b.%b" % (head, payload), _decode(signature), *_header(head))
        claims = _object(payload)
        if claims is None:
            _refuse("its payload is no JSON object")
        return claims, signer

    def _verify(self, signed: bytes, signature: bytes, alg: object, kid: object) -> bytes:
        """Return what has made a signature."""
        if alg == _HS256 and self._secrets:
            for secret, signer in self._secrets:
                if secret.has_made(signature, signed):
                    return signer
            _refuse("its signature is of no configured secret")
        if self._keys is None or not isinstance(alg, str) or not isinstance(kid, str | None):
            _refuse("it is not signed with what is configured")
        key = self._keys.find(kid, alg)
        if key is None:
            if self._keys.is_stale_for(kid):
                raise KeyNeededError(kid)
            _refuse("its issuer has no key that fits its signature")
        if not self._jws.get_algorithm_by_name(alg).verify(signed, key.key, signature):
            _refuse("its signature is not that of its issuer's key")
        return self._issuer

    def _read(self, claims: Mapping[str, Any], signer: bytes) -> Token:
        settings, now = self._settings, self._now()
        exp = _time(claims, "exp")
        if exp is None:
            _refuse("it has no 'exp'")
        if exp - now > settings.max_lifetime + settings.leeway:
            _refuse("it lives longer than auth.tokens.max_lifetime")
        issued, not_before = _time(claims, "iat"), _time(claims, "nbf")
        if issued is not None and exp - issued > settings.max_lifetime + settings.leeway:
            _refuse("it lives longer than auth.tokens.max_lifetime")  # and longer than its revocation is kept
        for name, moment in (("iat", issued), ("nbf", not_before)):
            if moment is not None and moment > now + settings.leeway:
                _refuse(f"its '{name}' is in the future")
        issuer, audiences = _text(claims, "iss", LONGEST_TOKEN), _audiences(claims)
        if settings.issuer is not None and issuer != settings.issuer:
            _refuse("its 'iss' is not auth.tokens.issuer")
        if settings.audience is not None and settings.audience not in audiences:
            _refuse("its 'aud' is not auth.tokens.audience")
        expires = exp + settings.leeway
        lifetime = max(0.0, exp - (now if issued is None else issued))
        spread = random.random() * 0.75 * min(_SPREAD_SECONDS, lifetime / 10)  # noqa: S311 — it spreads load
        return Token(
            _text(claims, "sub"), _text(claims, "jti"), issued, expires, expires + spread, self._rights(claims), claims,
            signer,
        )  # fmt: skip

    def _rights(self, claims: Mapping[str, Any]) -> Rights:
        settings = self._settings
        return _shared(_grants(claims, settings.publish_claim), _grants(claims, settings.subscribe_claim))


class _Hmac:
    """A secret, with what hashing begins with whatever is signed (RFC 2104), as HS256 needs it."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, secret: bytes) -> None:
        begun = hashlib.sha256()
        key = (hashlib.sha256(secret).digest() if len(secret) > begun.block_size else secret).ljust(
            begun.block_size, b"\0"
        )
        self._inner = hashlib.sha256(bytes([byte ^ 0x36 for byte in key]))
        self._outer = hashlib.sha256(bytes([byte ^ 0x5C for byte in key]))

    def has_made(self, signature: bytes, signed: bytes) -> bool:
        """Whether a signature was made with the secret, in a time that does not depend on how similar it is."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(signed)
        outer.update(inner.digest())
        return hmac.compare_digest(outer.digest(), signature)


def _parts(raw: str) -> list[bytes]:
    """Return the header, the payload and the signature of a token."""
    data = raw.encode("utf-8", "surrogatepass")
    parts = data.split(b".")
    if data.translate(None, _OF_COMPACT) or len(parts) != _PARTS or 1 in [len(part) % 4 for part in parts]:
        _refuse("it is no JSON Web Token in compact form")
    return parts


def _decode(part: bytes) -> bytes:
    return binascii.a2b_base64(part.translate(_FROM_URL) + b"==")  # more padding than needed is left out


@lru_cache(maxsize=64)  # the tokens of one issuer have few headers
def _header(head: bytes) -> tuple[object, object]:
    """Return ``alg`` and ``kid`` of a token's header."""
    header = _object(head)
    if header is None:
        _refuse("it is no JSON Web Token in compact form")
    if "crit" in header or "b64" in header:
        _refuse("its header has members that are not understood")
    return header.get("alg"), header.get("kid")


def _object(part: bytes) -> dict[str, Any] | None:
    """Return the JSON object that a part of a token has; None if it has another value, or none."""
    try:
        found = orjson.loads(_decode(part))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def digest_of(credential: str) -> bytes:
    """Return the digest by which a credential is known."""
    return hashlib.sha256(credential.encode("utf-8", "surrogatepass")).digest()


def sign(settings: TokenSettings, claims: Mapping[str, Any]) -> str:
    """Return a token with these claims, signed with the first secret."""
    from jwt import encode  # noqa: PLC0415

    return encode(dict(claims), settings.secrets[0], _HS256)


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    moment = claims.get(name)
    if moment is None and name not in claims:
        return None
    if isinstance(moment, bool) or not isinstance(moment, int | float):
        _refuse(f"its '{name}' is no number of seconds")
    if not 0 <= moment <= _LATEST:  # so it is finite, too
        _refuse(f"its '{name}' is no time")
    return float(moment)


def _text(claims: Mapping[str, Any], name: str, longest: int = LONGEST_SUBJECT) -> str | None:
    text = claims.get(name)
    if text is None and name not in claims:
        return None
    if not isinstance(text, str) or not 0 < len(text) <= longest or not text.isprintable():
        _refuse(f"its '{name}' is no text of 1 to {longest} printable characters")
    return text


def _audiences(claims: Mapping[str, Any]) -> list[str]:
    found = claims.get("aud", [])
    audiences = [found] if isinstance(found, str) else found
    if not isinstance(audiences, list) or not all(isinstance(audience, str) for audience in audiences):
        _refuse("its 'aud' is neither a text nor a list of texts")
    return audiences


@lru_cache(maxsize=1024)  # the tokens of many users give the same rights
def _shared(publish: tuple[str, ...], subscribe: tuple[str, ...]) -> Rights:
    return Rights(frozenset(publish), frozenset(subscribe))


def _grants(claims: Mapping[str, Any], path: str) -> tuple[str, ...]:
    found = claim(claims, path)
    if found is None:
        return ()
    if not isinstance(found, list) or not {str}.issuperset(map(type, found)):
        _refuse(f"its '{path}' is no list of texts")
    if len(found) > MAX_GRANTS:
        _refuse(f"its '{path}' has more than {MAX_GRANTS} entries")
    return tuple(found)


def _refuse(reason: str) -> NoReturn:
    raise TokenError(reason)

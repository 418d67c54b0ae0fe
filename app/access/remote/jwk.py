"""JSON Web Keys (RFC 7517): which of them verify signatures, by which algorithms.

All of it comes from the key. What a token says of its algorithm only chooses among these.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from app.core.turns import Pace, Steps

if TYPE_CHECKING:
    from jwt import PyJWK  # at run time imported late: most servers have no tokens

MOST_KEYS = 64
"""The most keys of one document that are looked at."""

RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")

_OF_CURVE = {
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("OKP", "Ed448"): ("EdDSA",),
}
_PUBLIC = ("kty", "crv", "n", "e", "x", "y")
_SECRET = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_FEWEST_BITS, _MOST_BITS = 2048, 8192
_LONGEST_EXPONENT = 8  # characters, of which 4 are three bytes: 65537 for almost everybody

Keys = Mapping[tuple[str | None, str], "PyJWK"]
"""The key for a ``kid`` and an algorithm; under None, the only one that fits the algorithm."""


def algorithms_of(jwk: object) -> tuple[str, ...]:
    """Return the algorithms by which a key of a document may verify; none if it is not for that, or not safe."""
    if not isinstance(jwk, Mapping) or not _SECRET.isdisjoint(jwk):  # a secret that was published is none
        return ()
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return ()
    kind, curve = jwk.get("kty"), jwk.get("crv")
    possible: tuple[str, ...]
    if kind == "RSA":
        possible = RSA if _is_sound(jwk.get("n"), jwk.get("e")) else ()
    else:
        possible = _OF_CURVE.get((kind, curve), ()) if isinstance(kind, str) and isinstance(curve, str) else ()
    if "alg" not in jwk:
        return possible
    return tuple(algorithm for algorithm in possible if algorithm == jwk["alg"])


def read(jwks: Iterable[object]) -> Steps[Keys]:
    """Return the keys of a document that can be used, a few in each step.

    Where several different keys have one ``kid`` and fit one algorithm, none of them is used: which of them signed a
    token cannot be told without trying, and one of them may be there by mistake.
    """
    found: dict[tuple[str | None, str], dict[tuple[object, ...], PyJWK]] = {}
    pace = Pace()
    for jwk, _ in zip(jwks, range(MOST_KEYS), strict=False):
        for algorithm in algorithms_of(jwk):
            assert isinstance(jwk, Mapping)  # noqa: S101 — others have no algorithms
            key = _parsed(jwk, algorithm)
            if key is not None:
                material = tuple(jwk.get(name) for name in _PUBLIC)
                for kid in {None, jwk.get("kid")}:
                    found.setdefault((kid, algorithm), {})[material] = key
            yield from pace.pause()
    return {place: next(iter(keys.values())) for place, keys in found.items() if len(keys) == 1}


def _parsed(jwk: Mapping[str, Any], algorithm: str) -> PyJWK | None:
    from jwt import PyJWK, PyJWTError  # noqa: PLC0415

    members = {name: jwk[name] for name in _PUBLIC if name in jwk}
    if not all(isinstance(value, str) for value in members.values()) or not isinstance(jwk.get("kid"), str | None):
        return None
    try:
        return PyJWK(members, algorithm)
    except (PyJWTError, ValueError, TypeError):
        return None


def _is_sound(modulus: object, exponent: object) -> bool:
    """Whether an RSA key is neither weak nor so large that it costs much."""
    if not isinstance(modulus, str) or not isinstance(exponent, str) or len(exponent) > _LONGEST_EXPONENT:
        return False
    if len(modulus) > _MOST_BITS // 4:
        return False
    try:
        number = int.from_bytes(base64.urlsafe_b64decode(modulus + "=" * (-len(modulus) % 4)))
    except ValueError:
        return False
    return _FEWEST_BITS <= number.bit_length() <= _MOST_BITS

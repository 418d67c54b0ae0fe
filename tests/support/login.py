"""A login of our own: keys that sign tokens, as a JSON Web Key Set shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import get_default_algorithms

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

_CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1(), "ES256K": ec.SECP256K1()}


def private(algorithm: str, name: str = "") -> Private:
    """Return the private key of this name for an algorithm, the same each time; those of RSA share their keys.

    The name of an RSA key may be its bits, and ``448`` is the larger curve of EdDSA.
    """
    return _made("RSA" if algorithm.startswith(("RS", "PS")) else algorithm, name)


@cache
def _made(algorithm: str, name: str) -> Private:
    if algorithm == "EdDSA":
        return ed448.Ed448PrivateKey.generate() if name == "448" else ed25519.Ed25519PrivateKey.generate()
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm])
    return rsa.generate_private_key(65537, int(name) if name.isdigit() else 2048)


def public(algorithm: str, name: str = "", **members: object) -> dict[str, Any]:
    """Return the public half as a JSON Web Key, with members added; a member that is None is left out."""
    jwk = json.loads(get_default_algorithms()[algorithm].to_jwk(private(algorithm, name).public_key()))
    jwk.pop("key_ops", None)
    jwk |= {"use": "sig", "alg": algorithm} | members
    return {member: value for member, value in jwk.items() if value is not None}


def sign(claims: Mapping[str, object], algorithm: str, kid: str | None, name: str = "") -> str:
    """Return a token."""
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(dict(claims), private(algorithm, name), algorithm, headers)

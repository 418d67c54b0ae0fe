"""Tokens in compact form (RFC 7515 §7.1): their parts, the header, and signatures by HS256."""

from __future__ import annotations

import binascii
import hashlib
import hmac
import string
from functools import lru_cache
from typing import Any

import orjson

from app.access.refusal import refuse

LONGEST_TOKEN = 8192
"""The most characters of a token."""

LONGEST_HEADER = 2048
"""The most characters of its header, which is read before the signature is verified: reading it must cost little."""

HS256 = "HS256"

_MALFORMED = "it is no JSON Web Token in compact form"
_PARTS = 3
_PADDING = b"=="
"""The most that a part may need; what it does not need is left out."""
_OTHER = b"!"
_KEPT = (string.ascii_letters + string.digits + ".").encode()
_FROM_URL = bytes(
    {**dict.fromkeys(range(256), _OTHER[0]), **dict(zip(_KEPT + b"-_", _KEPT + b"+/", strict=True))}.values()
)
"""Turns base64url into base64, keeps the dots between the parts, and makes ``!`` of what no token has."""


def split(raw: str) -> tuple[bytes, bytes, bytes, bytes]:
    """Return what is signed, the header and the payload in base64, and the signature.

    Raises :class:`~app.access.refusal.TokenError`.
    """
    if len(raw) > LONGEST_TOKEN:
        refuse(f"it has more than {LONGEST_TOKEN} characters")
    data = raw.encode("utf-8", "surrogatepass")
    plain = data.translate(_FROM_URL)
    parts = plain.split(b".")
    if _OTHER in plain or len(parts) != _PARTS:
        refuse(_MALFORMED)
    head, payload, signature = parts
    if len(head) % 4 == 1 or len(payload) % 4 == 1 or len(signature) % 4 == 1:  # no bytes are encoded so
        refuse(_MALFORMED)
    if len(head) > LONGEST_HEADER:
        refuse(f"its header has more than {LONGEST_HEADER} characters")
    return data[: -1 - len(signature)], head, payload, binascii.a2b_base64(signature + _PADDING)


@lru_cache(maxsize=64)  # the tokens of one issuer have few headers
def read_header(head: bytes) -> tuple[object, object]:
    """Return ``alg`` and ``kid`` of a header. Raises :class:`~app.access.refusal.TokenError`."""
    header = read_object(head)
    if header is None:
        refuse(_MALFORMED)
    if "crit" in header or "b64" in header:
        refuse("its header has members that are not understood")
    return header.get("alg"), header.get("kid")


def read_object(part: bytes) -> dict[str, Any] | None:
    """Return the JSON object that a part of a token has; None if it has another value, or none."""
    try:
        found = orjson.loads(binascii.a2b_base64(part + _PADDING))
    except ValueError:
        return None
    return found if found.__class__ is dict else None


class Hmac:
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

"""Tokens that tests sign: good ones, and every kind of bad one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time

SECRET = "the-secret-of-the-tests-0123456789"
OLD_SECRET = "the-secret-of-last-year-0123456789"


def part(content: object) -> str:
    """Return a part of a token; what is not bytes is written as JSON."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(payload: object, header: object = None, secret: str | bytes = SECRET) -> str:
    """Return a token with exactly this payload and header, with an HMAC."""
    key = secret if isinstance(secret, bytes) else secret.encode()
    text = f"{part({'alg': 'HS256', 'typ': 'JWT'} if header is None else header)}.{part(payload)}"
    return f"{text}.{part(hmac.digest(key, text.encode(), hashlib.sha256))}"


def token(secret: str = SECRET, **claims: object) -> str:
    """Return a good token, of six hours because some are made long before their test; ``claims`` come on top."""
    now = time.time()
    return signed({"exp": int(now + 6 * 3600), "iat": int(now), **claims}, secret=secret)


def token_of(sub: str, seconds: float = 60, *, secret: str = SECRET, age: float = 0) -> str:
    """Return a token of a subject that expires in so many seconds, exactly; it was issued ``age`` seconds ago."""
    now = time.time()
    return signed({"sub": sub, "exp": now + seconds, "iat": now - age}, secret=secret)


def bearer(credential: str) -> dict[str, str]:
    """Return the header that carries a key or a token."""
    return {"authorization": f"Bearer {credential}".rstrip()}

"""What the verifier of tokens remembers."""

import contextlib
import tracemalloc

from app.access.auth_settings import TokenSettings
from app.access.refusal import TokenError
from app.access.tokens import Tokens, digest_of
from tests.support.tokens import OLD_SECRET, SECRET, token

MIB = 1024 * 1024
WIDE: list[list[object]] = [[]] * 1500
"""A claim of 3 KB that takes 100 KB of memory."""


def test_few_tokens_are_remembered() -> None:
    """Verifier holds some MiB however many good tokens come, and nothing of those that are not good."""
    verifier = Tokens(TokenSettings(secrets=(SECRET.encode(),)))

    def come(raw: str) -> None:
        with contextlib.suppress(TokenError):
            verifier.verify(raw, digest_of(raw))

    come(token())
    bad = [token(OLD_SECRET, sub=str(number), pad=WIDE) for number in range(100)]
    good = [token(sub=str(number), pad=WIDE) for number in range(1000)]
    tracemalloc.start()
    try:
        for raw in bad:
            come(raw)
        assert tracemalloc.get_traced_memory()[0] < 1 * MIB
        for raw in good:
            come(raw)
        assert tracemalloc.get_traced_memory()[1] < 64 * MIB
    finally:
        tracemalloc.stop()

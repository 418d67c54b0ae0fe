"""Keys of a document that somebody else writes: whatever they are, they are used or skipped."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from app.access.remote import jwk
from tests.support.login import public

SOUND = [public(algorithm, kid="a") for algorithm in ("RS256", "ES256", "ES512", "EdDSA")]
MEMBERS = ("kty", "crv", "n", "e", "x", "y", "alg", "use", "key_ops", "kid", "d", "k", "x5c", "")
VALUES: st.SearchStrategy[Any] = (
    st.sampled_from(["RSA", "EC", "OKP", "oct", "P-256", "P-384", "P-521", "Ed25519", "Ed448", "X25519", "secp256k1"])
    | st.sampled_from(["sig", "enc", "verify", ["verify"], ["sign", "verify"], [None], "RS256", "HS256", "none", "a"])
    | st.sampled_from([None, True, 0, 65537, 1.5, [], {}, [[]], {"kty": "RSA"}, "AQAB", "AQ", "=", "A" * 43, "A" * 342])
    | st.text(max_size=4)
)
KEYS = st.builds(
    lambda key, changes, without: {name: value for name, value in (key | changes).items() if name not in without},
    st.sampled_from([*SOUND, {}]),
    st.dictionaries(st.sampled_from(MEMBERS), VALUES, max_size=3),
    st.sets(st.sampled_from(MEMBERS), max_size=2),
)


@settings(max_examples=300)
@given(st.lists(KEYS | VALUES, max_size=4))
def test_no_key_of_a_document_is_a_bug(keys: list[Any]) -> None:
    """Reader uses a key only by an algorithm of its own type, and skips whatever else there is."""
    steps = jwk.read(keys)
    try:
        while True:
            next(steps)
    except StopIteration as stop:
        found: jwk.Keys = stop.value
    for (kid, algorithm), key in found.items():
        assert kid is None or isinstance(kid, str)
        assert key.algorithm_name == algorithm
        assert any(algorithm in jwk.algorithms_of(candidate) for candidate in keys)
        assert not hasattr(key.key, "private_bytes")

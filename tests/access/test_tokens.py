"""What makes a token good, and every way in which one is not."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import jwt
import pytest

from app.access.auth_settings import TokenSettings
from app.access.refusal import TokenError
from app.access.tokens import KeyNeededError, Tokens, digest_of
from app.core.rights.token import Rights, Token
from tests.support.tokens import part

SECRET, OLD = b"s" * 32, b"o" * 32
NOW = 1_800_000_000
SETTINGS = TokenSettings(secrets=(SECRET, OLD), issuer="https://me", audience="abide", max_lifetime=3600, leeway=10)
GOOD: dict[str, Any] = {"iss": "https://me", "aud": "abide", "sub": "42", "iat": NOW - 60, "exp": NOW + 60}


def verify(claims: object, *, secret: bytes = SECRET, headers: dict[str, Any] | None = None, now: float = NOW) -> Token:
    """Return what a token with these claims says at a time."""
    raw = jwt.PyJWS().encode(json.dumps(claims).encode(), secret, "HS256", headers)
    return Tokens(SETTINGS, now=lambda: now).verify(raw, digest_of(raw))


def test_a_good_token_says_who_and_what() -> None:
    """Token gives its subject, its grants and its end, which is spread over a tenth of its lifetime."""
    token = verify(GOOD | {"publish": ["a"], "subscribe": ["b.*", "b"], "jti": "j"})
    assert (token.sub, token.jti, token.issued, token.expires) == ("42", "j", NOW - 60, NOW + 70)
    assert token.expires <= token.ends <= token.expires + 12
    assert token.rights == Rights(frozenset({"a"}), frozenset({"b", "b.*"}))


def test_any_configured_secret_verifies() -> None:
    """Token may be signed with any secret of the list, so that one can be replaced."""
    assert verify(GOOD, secret=OLD).sub == "42"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": None}, "'exp' is no number"),
        ({"exp": str(NOW + 60)}, "'exp' is no number"),
        ({"exp": True}, "'exp' is no number"),
        ({"exp": 1e300}, "'exp' is no time"),
        ({"exp": -1}, "'exp' is no time"),
        ({"exp": float("inf")}, "no JSON object"),
        ({"exp": float("nan")}, "no JSON object"),
        ({"exp": NOW - 10}, "has expired"),
        ({"exp": NOW + 3700}, "lives longer"),
        ({"exp": NOW + 3000, "iat": NOW - 1000}, "lives longer"),
        ({"iat": NOW + 11}, "'iat' is in the future"),
        ({"iat": "now"}, "'iat' is no number"),
        ({"nbf": NOW + 11}, "'nbf' is in the future"),
        ({"nbf": [NOW]}, "'nbf' is no number"),
        ({"iss": "https://me/"}, "'iss' is not"),
        ({"iss": ["https://me"]}, "'iss' is no text"),
        ({"aud": "other"}, "'aud' is not"),
        ({"aud": ["other"]}, "'aud' is not"),
        ({"aud": {"abide": 1}}, "'aud' is neither"),
        ({"aud": None}, "'aud' is neither"),
        ({"sub": 42}, "'sub' is no text"),
        ({"sub": ""}, "'sub' is no text"),
        ({"sub": "a\nb"}, "'sub' is no text"),
        ({"sub": "x" * 256}, "'sub' is no text"),
        ({"jti": 1}, "'jti' is no text"),
        ({"subscribe": "a"}, "'subscribe' is no list"),
        ({"subscribe": ["a", 1]}, "'subscribe' is no list"),
        ({"publish": {"a": 1}}, "'publish' is no list"),
        ({"publish": ["a"] * 101}, "more than 100 entries"),
    ],
)
def test_a_claim_that_is_wrong_refuses_the_token(changes: dict[str, Any], reason: str) -> None:
    """Token with one wrong claim is refused whole, and the reason names the claim."""
    with pytest.raises(TokenError, match=reason):
        verify(GOOD | changes)


def test_a_token_needs_an_end() -> None:
    """Token without exp is refused."""
    with pytest.raises(TokenError, match="has no 'exp'"):
        verify({name: value for name, value in GOOD.items() if name != "exp"})


def test_a_clock_may_be_wrong_by_the_leeway() -> None:
    """Token is good until exp and the leeway, and no moment longer."""
    assert verify(GOOD, now=NOW + 69.9).sub == "42"
    with pytest.raises(TokenError, match="has expired"):
        verify(GOOD, now=NOW + 70)


@pytest.mark.parametrize("claims", [[], "text", None, 1])
def test_a_payload_that_is_no_object_is_refused(claims: object) -> None:
    """Token whose payload is no JSON object is refused."""
    with pytest.raises(TokenError, match="no JSON object"):
        verify(claims)


@pytest.mark.parametrize(
    "raw",
    ["", ".", "..", "a.b", "a.b.c.d", "e30.e30.", "e30.e30.e30", "é.é.é", "e30=.e30=.e30=", " e30.e30.e30", "x" * 9000,
     "e30.e30.e30e3", "e30.e30e3.e30", "e30e3.e30.e30", "e30.e30.e3+", "e30.e/.e30", "e30.e30.e3\0"],
)  # fmt: skip
def test_a_text_that_is_no_token_is_refused(raw: str) -> None:
    """Credential that is no JSON Web Token is refused, whatever it is."""
    with pytest.raises(TokenError):
        Tokens(SETTINGS).verify(raw, digest_of(raw))


class NoKeys:
    """An issuer whose keys are not known yet."""

    generation = 0

    def find(self, kid: str | None, alg: str) -> object | None:  # noqa: ARG002 — it has none
        return None

    def is_stale_for(self, kid: str | None) -> bool:  # noqa: ARG002 — whatever it is
        return True

    async def refresh(self, kid: str | None) -> None:
        """Learn nothing."""


def test_a_text_that_is_no_token_asks_the_issuer_nothing() -> None:
    """Credential with a part that nothing is encoded by is refused before anybody asks for the key that it names."""
    head = part({"alg": "RS256", "kid": "new"})
    tokens = Tokens(TokenSettings(jwks="https://me/keys"), NoKeys())
    with pytest.raises(KeyNeededError):
        tokens.verify(f"{head}.e30.e30", digest_of(head))
    for raw in (f"{head}.e30e3.e30", f"{head}.e30.e30e3", f"{head}.e30.e30=", f"{head}..e30.e30"):
        with pytest.raises(TokenError, match="no JSON Web Token"):
            tokens.verify(raw, digest_of(raw))


@pytest.mark.parametrize("entry", [{"a": 1}, ["a"], 1, True, None, 1.5])
@pytest.mark.parametrize("claim", ["publish", "subscribe"])
def test_a_grant_that_is_no_text_is_refused_whichever_came_before(claim: str, entry: object) -> None:
    """Token with a grant that is no text is refused, also after tokens whose grants are nearly the same."""
    assert verify(GOOD | {claim: ["a", "1"]}).sub == "42"
    with pytest.raises(TokenError, match=f"'{claim}' is no list of texts"):
        verify(GOOD | {claim: ["a", entry]})


def test_a_known_header_opens_nothing_with_other_keys() -> None:
    """Token is refused by settings without its secret, though its header was read before."""
    raw = jwt.encode(GOOD, SECRET, "HS256", {"kid": "k"})
    assert Tokens(SETTINGS, now=lambda: NOW).verify(raw, digest_of(raw)).sub == "42"
    with pytest.raises(TokenError, match="of no configured secret"):
        Tokens(replace(SETTINGS, secrets=(OLD,)), now=lambda: NOW).verify(raw, digest_of(raw))
    with pytest.raises(TokenError, match="not signed with what is configured"):
        Tokens(replace(SETTINGS, secrets=()), now=lambda: NOW).verify(raw, digest_of(raw))


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"b64": False}, {"alg": "none"}, {"alg": "HS512"}, {"alg": 1}])
def test_the_header_decides_nothing(header: dict[str, Any]) -> None:
    """Token is refused if its header asks for anything but the configured algorithm."""
    body = jwt.utils.base64url_encode(json.dumps(GOOD).encode()).decode()
    head = jwt.utils.base64url_encode(json.dumps({"alg": "HS256", "typ": "JWT"} | header).encode()).decode()
    signature = jwt.utils.base64url_encode(
        jwt.get_algorithm_by_name("HS256").sign(f"{head}.{body}".encode(), SECRET)
    ).decode()
    raw = f"{head}.{body}.{signature}"
    with pytest.raises(TokenError):
        Tokens(SETTINGS, now=lambda: NOW).verify(raw, digest_of(raw))


def test_a_known_token_is_judged_again_each_time() -> None:
    """Token that was good is refused from its end on, and once it is taken back, though it is remembered."""
    now, gone = [float(NOW)], False
    tokens = Tokens(SETTINGS, is_revoked=lambda *_: gone, now=lambda: now[0])
    raw = jwt.encode(GOOD, SECRET, "HS256")
    tokens.verify(raw, digest_of(raw))
    gone = True
    with pytest.raises(TokenError, match="taken back"):
        tokens.verify(raw, digest_of(raw))
    gone, now[0] = False, NOW + 70
    with pytest.raises(TokenError, match="has expired"):
        tokens.verify(raw, digest_of(raw))


def test_other_settings_judge_what_is_open() -> None:
    """Token that is in use is refused when its secret, its issuer or its audience is no longer configured."""
    token = Tokens(SETTINGS, now=lambda: NOW).verify(raw := jwt.encode(GOOD, SECRET, "HS256"), digest_of(raw))
    later = TokenSettings(secrets=(b"n" * 32, SECRET), issuer="https://me", audience="abide")
    assert Tokens(later, now=lambda: NOW).judge(token).sub == "42"
    for changed in (
        TokenSettings(secrets=(OLD,), issuer="https://me", audience="abide"),
        TokenSettings(secrets=(SECRET,), issuer="https://you", audience="abide"),
        TokenSettings(secrets=(SECRET,), issuer="https://me", audience="other"),
    ):
        with pytest.raises(TokenError, match="no longer configured"):
            Tokens(changed, now=lambda: NOW).judge(token)


def test_the_time_of_this_machine_is_taken() -> None:
    """Token is judged by the clock of the machine unless another is given."""
    raw = jwt.encode({"exp": time.time() + 5}, SECRET, "HS256")
    assert Tokens(TokenSettings(secrets=(SECRET,))).verify(raw, digest_of(raw)).sub is None

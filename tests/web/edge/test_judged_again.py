"""Callers that are judged again: under the rules that they came by, and under others."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from app.access.auth_settings import AuthSettings, Key, TokenSettings
from app.access.tokens import Tokens, sign
from app.core.errors import UnauthorisedError
from app.core.rights.policy import Caller, Identity
from app.web.edge.auth import Authenticator, for_connection
from app.web.edge.caller import see

TOKENS = TokenSettings(secrets=(b"s" * 32,))
AUTH = AuthSettings(keys=(Key(b"k" * 16),), tokens=TOKENS)


class Login:
    """An authenticator whose tokens a test takes back, or lets expire."""

    def __init__(self, auth: AuthSettings = AUTH) -> None:
        self.gone = False
        self.now = time.time()
        assert auth.tokens is not None
        tokens = Tokens(auth.tokens, is_revoked=lambda *_: self.gone, now=lambda: self.now)
        self.authenticator = Authenticator(auth, tokens=tokens)

    def judge(self, identity: Identity) -> Identity:
        return self.authenticator.judge(identity)


def caller(bearer: str) -> Caller:
    return see({"host": "localhost", "authorization": f"Bearer {bearer}"}, "127.0.0.1")


def connected(login: Login, bearer: str) -> Identity:
    """Return the identity of a connection that came with this credential."""
    identity = login.authenticator.authenticate(caller(bearer))
    assert identity is not None
    return for_connection(identity, caller(bearer))


def token() -> str:
    return sign(TOKENS, {"sub": "dude", "exp": int(time.time()) + 600})


def test_under_the_rules_that_it_came_by_a_caller_stays_as_it_is() -> None:
    """Identity is not derived again where no rule has changed: each handshake is judged twice."""
    login = Login()
    for bearer in (token(), "k" * 16, "unknown"):
        identity = connected(login, bearer)
        assert login.judge(identity) is identity


def test_what_is_neither_a_key_nor_a_token_is_called_so() -> None:
    """Identity of a wrong key says so where tokens are taken as well, and not only that it is no token."""
    fault = connected(Login(), "a-key-with-a-typo").fault
    assert (fault or "").startswith("what was sent is none of the configured keys (auth.keys), and no JSON Web Token")


def test_a_token_that_was_taken_back_during_the_handshake_is_refused() -> None:
    """Identity is refused under the same rules, too, once its token was taken back."""
    login = Login()
    identity = connected(login, token())
    login.gone = True
    with pytest.raises(UnauthorisedError, match="was taken back"):
        login.judge(identity)


def test_a_token_that_expired_during_the_handshake_is_refused() -> None:
    """Identity is refused under the same rules, too, once its token has expired."""
    login = Login()
    identity = connected(login, token())
    login.now += 3600
    with pytest.raises(UnauthorisedError, match="has expired"):
        login.judge(identity)


def test_under_other_rules_a_caller_is_derived_again() -> None:
    """Identity is one of the new rules afterwards, and is refused if they do not know its key."""
    identity = connected(Login(), "k" * 16)
    same = Login()
    again = same.judge(identity)
    assert again is not identity
    assert same.judge(again) is again
    with pytest.raises(UnauthorisedError, match="none of the configured ones"):
        Login(replace(AUTH, keys=(Key(b"n" * 16),))).judge(again)

"""What callers have open, and how it ends when their tokens are taken back."""

from app.core.delivery.sessions import Sessions
from app.core.errors import AbideError, UnauthorisedError
from app.core.rights.policy import Identity
from app.core.rights.token import EVERYTHING, Token


class Open:
    """Something that an identity has open."""

    def __init__(self, sub: str, jti: str | None = None, issued: float | None = 100.0) -> None:
        token = Token(sub, jti, issued, 1e12, 1e12, EVERYTHING, {}, b"")
        self.identity = Identity(token=token, subject=sub)
        self.error: AbideError | None = None

    def fail(self, error: AbideError) -> None:
        self.error = error


def watched(*sessions: Open) -> Sessions:
    entered = Sessions()
    for session in sessions:
        entered.enter(session)
    return entered


def ended(*sessions: Open) -> list[bool]:
    return [isinstance(session.error, UnauthorisedError) for session in sessions]


def test_what_a_subject_opened_with_older_tokens_ends() -> None:
    """Sessions of a subject end if their tokens were issued before, or do not say when."""
    every = older, newer, unsaid, other = Open("42", issued=99.5), Open("42"), Open("42", issued=None), Open("43")
    sessions = watched(*every)
    sessions.revoke("42", None, 100.0)
    assert ended(older, newer, unsaid, other) == [True, False, True, False]
    assert len(sessions) == 2


def test_what_one_token_opened_ends_and_nothing_else() -> None:
    """Sessions of a token end by its id, whatever else its subject has open."""
    every = one, again, other, unnamed = Open("42", "9f"), Open("42", "9f"), Open("42", "a0"), Open("42")
    sessions = watched(*every)
    sessions.revoke(None, "9f", 0.0)
    assert ended(one, again, other, unnamed) == [True, True, False, False]


def test_a_session_is_found_by_the_token_that_it_has_now() -> None:
    """Session whose token was refreshed ends with the new one, and not with the old one."""
    session = Open("42", "old")
    sessions = watched(session)
    session.identity = Open("42", "new").identity
    sessions.enter(session)
    sessions.revoke(None, "old", 0.0)
    assert ended(session) == [False]
    sessions.revoke(None, "new", 0.0)
    assert ended(session) == [True]
    assert len(sessions) == 0

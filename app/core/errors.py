"""Every way a request can be refused: one tree of errors, one table of close codes.

An error's ``code`` is stable and documented in ``docs/codes.md``; its ``str()`` says what is
wrong, where, and what to do. ``web/edge/problems.py`` maps codes to HTTP statuses, and
:data:`CLOSE_CODES` below maps them to WebSocket close codes.
"""

from __future__ import annotations

from typing import ClassVar, Self, TypeVar

from app.wire.close_codes import CloseCode


class AbideError(Exception):
    """Base of all refusals; ``str(error)`` is the ``detail`` that the user reads."""

    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"


ErrorT = TypeVar("ErrorT", bound=AbideError)


def bare(error: ErrorT) -> ErrorT:
    """Return the error without what it was raised in, to be kept.

    Its traceback has the frames that it passed, and one of these the error: a cycle, which keeps all that those frames
    hold, a large message maybe, until garbage is collected. That happens seldom.
    """
    error.__traceback__ = error.__context__ = None
    return error


def of_bug(error: BaseException | None = None) -> AbideError:
    """Return the refusal that somebody is told of an error that nobody expected; its cause has the trace."""
    refusal = AbideError("the server failed; its log says why")
    refusal.__cause__ = error
    return refusal


class MalformedError(AbideError):
    """The request cannot be understood: bad JSON, a missing field, a bad query parameter."""

    code = "malformed"
    title = "Malformed request"


class UnauthorisedError(AbideError):
    """No credentials, or wrong ones, where the channel's policy asks for some."""

    code = "unauthorised"
    title = "Unauthorised"


class ForbiddenError(AbideError):
    """The channel's policy does not allow this, whoever asks."""

    code = "forbidden"
    title = "Forbidden"


class UnknownChannelError(AbideError):
    """No declared channel has this name."""

    code = "unknown_channel"
    title = "Unknown channel"


class ChannelRemovedError(AbideError):
    """The channel was deleted from channels.yaml while it was in use."""

    code = "channel_removed"
    title = "Channel removed"


class TooManyError(AbideError):
    """A connection has as many subscriptions as it may have."""

    code = "too_many"
    title = "Too many"


class KeyReusedError(AbideError):
    """An idempotency key was used before with another message."""

    code = "key_reused"
    title = "Idempotency key reused"

    @classmethod
    def of(cls, key: str | None) -> Self:
        """Name the key as its publisher spelled it."""
        return cls(f"idempotency key {key!r} was used before with another message: give each message a key of its own")


class TooLargeError(AbideError):
    """A body, message or frame is over its limit."""

    code = "too_large"
    title = "Too large"


class UnsupportedTypeError(AbideError):
    """The body's content type is not one that can be published."""

    code = "unsupported_type"
    title = "Unsupported content type"


class GapError(AbideError):
    """The log no longer holds the messages after a subscription's cursor."""

    code = "gap"
    title = "Gap"


class UnavailableError(AbideError):
    """The backend cannot take the message now; ``retry_after`` is in seconds."""

    code = "unavailable"
    title = "Unavailable"

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class OverloadedError(UnavailableError):
    """The queue of messages that wait for the backend is full."""

    code = "overloaded"
    title = "Overloaded"


class NoRoomError(OverloadedError):
    """All clients together have sent so much of unfinished messages that this one cannot be held, too."""


class OutcomeUnknownError(UnavailableError):
    """The link to the backend broke during the commit: the message may be stored or not."""

    code = "outcome_unknown"
    title = "Outcome unknown"


CLOSE_CODES: dict[str, CloseCode] = {
    AbideError.code: CloseCode.INTERNAL_ERROR,
    MalformedError.code: CloseCode.BAD_FRAME,
    UnauthorisedError.code: CloseCode.UNAUTHORISED,
    ForbiddenError.code: CloseCode.FORBIDDEN,
    ChannelRemovedError.code: CloseCode.CHANNEL_REMOVED,
    TooLargeError.code: CloseCode.TOO_BIG,
    TooManyError.code: CloseCode.TOO_MANY,
    UnsupportedTypeError.code: CloseCode.UNSUPPORTED_DATA,
    GapError.code: CloseCode.GAP,
    UnavailableError.code: CloseCode.OVERLOADED,
    OverloadedError.code: CloseCode.OVERLOADED,
    OutcomeUnknownError.code: CloseCode.OVERLOADED,
}

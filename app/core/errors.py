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
    retry_after: int | None = None
    """Seconds after which another try may succeed; None where waiting does not help, or nobody knows."""


ErrorT = TypeVar("ErrorT", bound=AbideError)


def bare(error: ErrorT) -> ErrorT:
    """Return the error without its traceback and context, so that it can be stored.

    The traceback refers to the frames that the error passed, and one of them to the error. That cycle would keep
    whatever those frames hold, perhaps a large message, until the garbage collector runs, which is seldom.
    """
    error.__traceback__ = error.__context__ = None
    return error


def of_bug(error: BaseException | None = None) -> AbideError:
    """Return what a client is told of an unexpected error; ``__cause__`` has the original with its traceback."""
    refusal = AbideError("the server failed; its log says why")
    refusal.__cause__ = error
    return refusal


class MalformedError(AbideError):
    """The request is invalid: bad JSON, a missing member, a bad query parameter."""

    code = "malformed"
    title = "Malformed request"


class UnauthorisedError(AbideError):
    """The channel's policy needs credentials, and the request has none or wrong ones."""

    code = "unauthorised"
    title = "Unauthorised"


class ForbiddenError(AbideError):
    """The channel's policy does not allow this, and no credentials would help."""

    code = "forbidden"
    title = "Forbidden"


class ExpiredError(AbideError):
    """The caller's right to be connected has ended: its token has expired, or the application's answer."""

    code = "expired"
    title = "Expired"


class DisconnectedError(AbideError):
    """The application closed what its user had open; the user may come back."""

    code = "disconnected"
    title = "Disconnected"


class UnknownChannelError(AbideError):
    """No declared channel has this name."""

    code = "unknown_channel"
    title = "Unknown channel"


class ChannelRemovedError(AbideError):
    """The channel was deleted from channels.yaml while it was in use."""

    code = "channel_removed"
    title = "Channel removed"


class TooManyError(AbideError):
    """The connection has as many subscriptions as it may, or the address as many connections."""

    code = "too_many"
    title = "Too many"

    def __init__(self, detail: str, *, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class RateLimitedError(AbideError):
    """More is published to the channel than its ``rate_limit`` allows."""

    code = "rate_limited"
    title = "Rate limited"

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class KeyReusedError(AbideError):
    """An idempotency key was used before with another message."""

    code = "key_reused"
    title = "Idempotency key reused"

    @classmethod
    def of(cls, key: str | None) -> Self:
        """Return the error for a key, which is shown as its publisher wrote it."""
        return cls(f"idempotency key {key!r} was used before with another message: give each message a key of its own")


class TooLargeError(AbideError):
    """A body, message or frame is larger than its limit."""

    code = "too_large"
    title = "Too large"


class SchemaError(AbideError):
    """The message does not fit its channel's schema; ``pointer`` is the JSON pointer of what does not fit."""

    code = "schema_mismatch"
    title = "Schema mismatch"

    def __init__(self, detail: str, *, pointer: str) -> None:
        super().__init__(detail)
        self.pointer = pointer


class UnsupportedTypeError(AbideError):
    """The body's content type is not one that can be published."""

    code = "unsupported_type"
    title = "Unsupported content type"


class GapError(AbideError):
    """The log no longer holds the messages after a subscription's cursor."""

    code = "gap"
    title = "Gap"


class UnavailableError(AbideError):
    """The backend cannot take the message now."""

    code = "unavailable"
    title = "Unavailable"

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class OverloadedError(UnavailableError):
    """The queue of messages for the backend is full, or the worker has as many connections as it may."""

    code = "overloaded"
    title = "Overloaded"


class NoRoomError(OverloadedError):
    """The unfinished messages of all clients together fill their limit, so this one cannot be buffered."""


class OutcomeUnknownError(UnavailableError):
    """The connection to the backend broke during a commit: the message may be stored or not."""

    code = "outcome_unknown"
    title = "Outcome unknown"


CLOSE_CODES: dict[str, CloseCode] = {
    AbideError.code: CloseCode.INTERNAL_ERROR,
    MalformedError.code: CloseCode.BAD_FRAME,
    UnauthorisedError.code: CloseCode.UNAUTHORISED,
    ForbiddenError.code: CloseCode.FORBIDDEN,
    ExpiredError.code: CloseCode.EXPIRED,
    DisconnectedError.code: CloseCode.POLICY_VIOLATION,
    ChannelRemovedError.code: CloseCode.CHANNEL_REMOVED,
    TooLargeError.code: CloseCode.TOO_BIG,
    TooManyError.code: CloseCode.TOO_MANY,
    SchemaError.code: CloseCode.SCHEMA_MISMATCH,
    RateLimitedError.code: CloseCode.TOO_MANY,
    UnsupportedTypeError.code: CloseCode.UNSUPPORTED_DATA,
    GapError.code: CloseCode.GAP,
    UnavailableError.code: CloseCode.OVERLOADED,
    OverloadedError.code: CloseCode.OVERLOADED,
    OutcomeUnknownError.code: CloseCode.OVERLOADED,
}

"""Errors as HTTP responses: one table of statuses, and bodies of ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from app.core import errors

STATUSES: dict[str, int] = {
    errors.MalformedError.code: 400,
    errors.UnauthorisedError.code: 401,
    errors.ExpiredError.code: 401,
    errors.ForbiddenError.code: 403,
    errors.UnknownChannelError.code: 404,
    errors.KeyReusedError.code: 409,
    errors.TooLargeError.code: 413,
    errors.UnsupportedTypeError.code: 415,
    errors.SchemaError.code: 422,
    errors.TooManyError.code: 429,
    errors.RateLimitedError.code: 429,
    errors.AbideError.code: 500,
    errors.UnavailableError.code: 503,
    errors.OverloadedError.code: 503,
    errors.OutcomeUnknownError.code: 503,
    "method_not_allowed": 405,
    "not_acceptable": 406,
}


class Problem(BaseModel):
    """The body of every refusal."""

    type: str = Field(examples=["urn:abide:problem:unknown_channel"])
    status: int = Field(examples=[404])
    title: str = Field(examples=["Unknown channel"])
    detail: str
    code: str = Field(examples=["unknown_channel"], description="Stable; see docs/codes.md")
    pointer: str = Field(
        default_factory=str,  # left out where it means nothing
        examples=["/items/0/price"],
        description="Only with `schema_mismatch`: the JSON pointer of what does not fit",
    )


def describe(code: str, title: str, detail: str) -> dict[str, Any]:
    """Return the problem object of a refusal."""
    return Problem(
        type=f"urn:abide:problem:{code}", status=STATUSES[code], title=title, detail=detail, code=code
    ).model_dump(exclude={"pointer"})


def describe_error(error: errors.AbideError) -> dict[str, Any]:
    """Return the problem object of an error."""
    return describe(error.code, error.title, str(error)) | pointer_of(error)


def pointer_of(error: errors.AbideError) -> dict[str, str]:
    """Return the member that says where a message does not fit its schema; nothing for other errors."""
    return {"pointer": error.pointer} if isinstance(error, errors.SchemaError) else {}


class ProblemResponse(JSONResponse):
    """A refusal as an HTTP response, also to a WebSocket handshake before the upgrade."""

    media_type = "application/problem+json"

    def __init__(self, problem: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        super().__init__(problem, status_code=problem["status"], headers=headers)

    @classmethod
    def of(cls, error: errors.AbideError) -> ProblemResponse:
        """Return the response to an error, with the headers that its status requires."""
        problem = describe_error(error)
        if isinstance(error, errors.UnauthorisedError | errors.ExpiredError):
            return cls(problem, {"www-authenticate": 'Bearer realm="abide"'})
        if error.retry_after is not None:
            return cls(problem, {"retry-after": str(error.retry_after)})
        return cls(problem)

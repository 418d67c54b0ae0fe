"""Health: is the process alive, and may it take traffic."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from app.web.edge.draining import is_draining

_DRAINING = "draining"


class Backend(Protocol):
    """What health needs to know of a backend."""

    @property
    def ok(self) -> bool:
        """Whether it can be worked with."""

    @property
    def detail(self) -> str:
        """What is wrong, or what it is connected to."""


class ConfigState(BaseModel):
    """Which channels.yaml is in force, and what is wrong with the one on disk."""

    hash: str = Field(description="Short hash of the content in force")
    error: str | None = Field(
        description="Why the content on disk was not applied: the first problems, with file, line and column"
    )


class Readiness(BaseModel):
    """The body of ``GET /health/ready``."""

    ready: bool
    reasons: list[str] | None = Field(
        default=None, description="Why it is not ready; who is no operator is told of nothing but `draining`"
    )
    backend: str | None = Field(default=None, description="For operators")
    config: ConfigState | None = Field(default=None, description="For operators")


class Health:
    """The health routes."""

    def __init__(self, backend: Callable[[], Awaitable[Backend]], config: Callable[[], ConfigState]) -> None:
        self._backend = backend
        self._config = config

    async def live(self) -> Response:
        """Answer 200 as long as the process turns its loop."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request, *, in_full: bool) -> Response:
        """Answer 200 when messages can be published and received here, else 503 with reasons.

        A server that drains is not ready: it answers what is asked on connections that are open,
        and takes no new ones.

        A broken edit of channels.yaml shows in ``config.error``; the server stays ready. Details are for
        operators: they tell of hosts and files.
        """
        backend = await self._backend()
        draining = [_DRAINING] if is_draining(request.scope) else []
        reasons = [*([] if backend.ok else [f"backend: {backend.detail}"]), *draining]
        readiness = Readiness(ready=not reasons)
        if in_full:
            readiness = Readiness(ready=not reasons, reasons=reasons, backend=backend.detail, config=self._config())
        elif draining:
            readiness.reasons = draining
        return JSONResponse(
            readiness.model_dump(exclude_unset=True),
            status_code=200 if readiness.ready else 503,
            headers={"cache-control": "no-store"},
        )

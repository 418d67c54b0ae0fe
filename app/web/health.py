"""Health: is the process alive, and may it take traffic."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from app.web.drain import is_draining


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
    error: str | None = Field(description="Why the content on disk was not applied, with file, line and column")


class Readiness(BaseModel):
    """The body of ``GET /health/ready``."""

    ready: bool
    reasons: list[str] = Field(description="Why it is not ready; empty when it is")
    backend: str
    config: ConfigState


class Health:
    """The health routes."""

    def __init__(self, backend: Callable[[], Awaitable[Backend]], config: Callable[[], ConfigState]) -> None:
        self._backend = backend
        self._config = config

    async def live(self) -> Response:
        """Answer 200 as long as the process turns its loop."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        """Answer 200 when messages can be published and received here, else 503 with reasons.

        A server that drains is not ready: it answers what is asked on connections that are open,
        and takes no new ones.

        A broken edit of channels.yaml shows in ``config.error``; the server stays ready.
        """
        backend = await self._backend()
        reasons = [] if backend.ok else [f"backend: {backend.detail}"]
        if is_draining(request.scope):
            reasons.append("draining")
        readiness = Readiness(
            ready=not reasons,
            reasons=reasons,
            backend=backend.detail,
            config=self._config(),
        )
        return JSONResponse(readiness.model_dump(), status_code=200 if readiness.ready else 503)

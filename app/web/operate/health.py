"""Health: whether the process is alive, and whether it can take traffic."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.types import Scope

from app.web.edge.draining import is_draining

_DRAINING = "draining"


class Backend(Protocol):
    """What health needs to know about a backend."""

    @property
    def ok(self) -> bool:
        """Whether it works."""

    @property
    def detail(self) -> str:
        """What is wrong with it, or what it is connected to."""


class ConfigState(BaseModel):
    """Which channels.yaml is in force, and what is wrong with the file on disk."""

    hash: str = Field(description="Short hash of the content in force")
    error: str | None = Field(
        description="Why the file on disk was not applied: the first problems, with file, line and column"
    )


class Readiness(BaseModel):
    """The body of ``GET /health/ready``."""

    ready: bool
    reasons: list[str] | None = Field(
        default=None, description="Why it is not ready; only operators see reasons other than `draining`"
    )
    backend: str | None = Field(default=None, description="For operators")
    config: ConfigState | None = Field(default=None, description="For operators")
    access: str | None = Field(
        default=None, description="Why tokens may be refused, such as keys that cannot be fetched. For operators"
    )


class Health:
    """The health routes."""

    def __init__(
        self,
        backend: Callable[[], Awaitable[Backend]],
        config: Callable[[], ConfigState],
        access: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._backend = backend
        self._config = config
        self._access = access

    async def live(self) -> Response:
        """Answer 200 while the process's event loop runs."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request, *, in_full: bool) -> Response:
        """Answer 200 when messages can be published and received here, else 503 with reasons.

        A draining server is not ready: it answers requests on open connections, and accepts no new connections.

        A broken edit of channels.yaml appears in ``config.error``, and a login whose keys cannot be fetched in
        ``access``: the server stays ready. Only operators see the details, because they name hosts and files.
        """
        readiness = await self.judge(request.scope, in_full=in_full)
        return JSONResponse(
            readiness.model_dump(exclude_unset=True),
            status_code=200 if readiness.ready else 503,
            headers={"cache-control": "no-store"},
        )

    async def judge(self, scope: Scope, *, in_full: bool) -> Readiness:
        """Return what :meth:`ready` answers with."""
        backend = await self._backend()
        draining = [_DRAINING] if is_draining(scope) else []
        reasons = [*([] if backend.ok else [f"backend: {backend.detail}"]), *draining]
        readiness = Readiness(ready=not reasons)
        if in_full:
            readiness = Readiness(ready=not reasons, reasons=reasons, backend=backend.detail, config=self._config())
            if access := self._access():
                readiness.access = access
        elif draining:
            readiness.reasons = draining
        return readiness

"""``POST /ticket``: exchanges a token for a ticket, which may be in a URL."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from app.core.errors import ForbiddenError, UnauthorisedError
from app.core.rights.policy import Access
from app.web.documents.openapi import refusal
from app.web.edge.auth import Authenticator
from app.web.edge.caller import see_request


class Issued(BaseModel):
    """The answer to ``POST /ticket``."""

    ticket: str = Field(description="Good once, as `?ticket=` of a request or handshake")
    exp: float = Field(description="When it expires, in seconds since the Unix epoch")


def add_ticket_route(app: FastAPI, authenticator: Authenticator) -> None:
    """Add the route."""

    async def issue(request: Request) -> JSONResponse:
        identity = await authenticator.identify(see_request(request))
        identity.check()
        if identity.token is None:
            msg = "a ticket is issued for a token: send 'Authorization: Bearer <token>'"
            raise ForbiddenError(msg) if identity.key is not None else UnauthorisedError(msg)
        return JSONResponse((await authenticator.issue_ticket(identity.token))._asdict(), headers=_UNCACHED)

    app.add_api_route(
        "/ticket",
        issue,
        methods=["POST"],
        tags=["tickets"],
        summary="Exchange a token for a ticket, which is good once and for a minute, as `?ticket=`",
        response_model=Issued,
        responses={status: refusal(status) for status in (401, 403, 503)},
        openapi_extra={"security": [{Access.TOKEN: []}]},
    )


_UNCACHED = {"cache-control": "no-store"}

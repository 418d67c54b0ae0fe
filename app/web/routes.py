"""The routes of one channels.yaml.

A reload builds all of them anew and swaps the whole in one assignment (``app/main.py``): no
request ever sees half of a change.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from app.core.channel import PARAMETER, Channel, Registry
from app.core.errors import AbideError, MalformedError, UnknownChannelError
from app.core.hub import Hub
from app.core.ports import Publisher
from app.web.auth import Authenticator
from app.web.health import Health, Readiness
from app.web.problems import Problem, ProblemResponse, describe
from app.web.push import MAX_ITEMS, Push
from app.web.websocket import Sockets

_ALL_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_KEY_HEADER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A repeat within ten minutes answers the first result and publishes nothing",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
_ENVELOPE = {
    "type": "object",
    "required": ["channel", "message"],
    "additionalProperties": False,
    "properties": {
        "channel": {"type": "string", "examples": ["lebowski"]},
        "message": {"description": "Any JSON", "examples": ["hello"]},
        "key": {"type": "string", "description": "As Idempotency-Key"},
    },
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": title, "content": {"application/problem+json": {"schema": Problem.model_json_schema()}}}
    for status, title in {
        400: "Malformed",
        401: "No key, or a wrong one",
        403: "Not allowed here",
        404: "Unknown channel",
        409: "Idempotency key reused with another message",
        413: "Too large",
        415: "Not a content type that can be published",
        503: "Try again after Retry-After seconds",
    }.items()
}


@dataclass(frozen=True, slots=True)
class Edge:
    """What the routes need of the rest; :func:`build` makes an application of it."""

    registry: Registry
    authenticator: Authenticator
    origins: tuple[str, ...]
    publisher: Publisher
    hub: Hub
    health: Health
    version: str


def build(edge: Edge) -> FastAPI:
    """Register every route that the declared channels ask for."""
    app = FastAPI(
        title="Abide",
        version=edge.version,
        summary="Realtime channels: push over HTTP, subscribe over WebSocket",
        redirect_slashes=False,
        redoc_url=None,
        exception_handlers={
            AbideError: _refuse,
            RequestValidationError: _refuse_request,
            ClientDisconnect: _refuse_nobody,
            Exception: _refuse_crash,
        },
    )
    app.add_middleware(
        CORSMiddleware,
        allow_origins=edge.origins,
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type", "idempotency-key", "last-event-id"],
        expose_headers=["idempotency-replayed", "retry-after"],
        max_age=600,
    )
    _add_health(app, edge.health)
    _add_push(app, edge)
    _add_sockets(app, edge)
    _add_rest(app, edge.registry)
    return app


def _add_health(app: FastAPI, health: Health) -> None:
    app.add_api_route("/health/live", health.live, tags=["health"], summary="Is the process alive?")
    app.add_api_route(
        "/health/ready", health.ready, tags=["health"], summary="May it take traffic?", response_model=Readiness
    )


def _add_push(app: FastAPI, edge: Edge) -> None:
    push = Push(edge.registry, edge.authenticator, edge.publisher)
    array = {"type": "array", "items": _ENVELOPE, "maxItems": MAX_ITEMS}
    app.add_api_route(
        "/push",
        push.enveloped,
        methods=["POST"],
        tags=["push"],
        summary="Publish a message, or an array of them",
        responses=_PROBLEMS,
        openapi_extra={
            "parameters": [_KEY_HEADER],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"anyOf": [_ENVELOPE, array]}}},
            },
        },
    )
    for channel in edge.registry.channels:
        app.add_api_route(
            f"/push/{channel.name}",
            push.named,
            methods=["POST"],
            tags=["push"],
            summary=f"Publish to {channel.name}",
            description=_describe(channel),
            operation_id=f"push_{re.sub(r'[^A-Za-z0-9]', '_', channel.name)}",
            responses=_PROBLEMS,
            openapi_extra=_channel_body(channel),
        )
    app.add_api_route("/push/{name:path}", push.named, methods=["POST"], include_in_schema=False)


def _describe(channel: Channel) -> str:
    history = f"{channel.history.size} messages, {channel.history.ttl} s" if channel.history.size else "none"
    return (
        f"Subscribers connect a WebSocket to `/{channel.name}`.\n\n"
        f"publish: {channel.publish} · subscribe: {channel.subscribe} · "
        f"client_publish: {str(channel.client_publish).lower()} · history: {history} · "
        f"at most {channel.max_message_size} bytes a message"
    )


def _channel_body(channel: Channel) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [_KEY_HEADER]
    if channel.is_family:
        parameter = channel.name.partition("{")[2].partition("}")[0]
        schema = {"type": "string", "pattern": f"^{PARAMETER}$"}
        parameters.append({"name": parameter, "in": "path", "required": True, "schema": schema})
    content = {
        "application/json": {"schema": {"description": "Any JSON"}, "example": "hello"},
        "text/plain": {"schema": {"type": "string"}},
    }
    return {"parameters": parameters, "requestBody": {"required": True, "content": content}}


def _add_sockets(app: FastAPI, edge: Edge) -> None:
    sockets = Sockets(edge.registry, edge.authenticator, edge.origins, edge.hub, edge.publisher)
    app.add_api_websocket_route("/echo", sockets.echo)
    for channel in edge.registry.channels:
        app.add_api_websocket_route(f"/{channel.name}", sockets.channel)
    app.add_api_websocket_route("/{name:path}", sockets.channel)


def _add_rest(app: FastAPI, registry: Registry) -> None:
    """Answer what no route took: with the reason, as a problem."""

    async def rest(request: Request) -> ProblemResponse:
        path = request.scope["path"]
        name = path.removeprefix("/")
        if registry.get(name) is not None:
            if request.method != "GET":
                return _not_allowed(f"{path} is subscribed to; publish with POST /push{path}", {"GET"})
            detail = f"{path} speaks WebSocket: connect to it with Upgrade: websocket"
            return ProblemResponse(describe("not_acceptable", "Not acceptable", detail))
        if allowed := _methods(app, request):
            return _not_allowed(f"{path} does not take {request.method}", allowed)
        msg = f"there is no page and no channel {name[:255]!r} here"
        raise UnknownChannelError(msg)

    app.add_api_route("/{name:path}", rest, methods=_ALL_METHODS, include_in_schema=False)


def _methods(app: FastAPI, request: Request) -> set[str]:
    """Return the methods that routes with this path take."""
    partial = [route for route in app.routes if route.matches(request.scope)[0] is Match.PARTIAL]
    return {method for route in partial for method in getattr(route, "methods", None) or ()}


def _not_allowed(detail: str, allowed: set[str]) -> ProblemResponse:
    problem = describe("method_not_allowed", "Method not allowed", detail)
    return ProblemResponse(problem, {"allow": ", ".join(sorted(allowed))})


async def _refuse(_: Request, error: AbideError) -> ProblemResponse:
    """Answer a refusal; before an upgrade, that of a WebSocket handshake too."""
    return ProblemResponse.of(error)


async def _refuse_request(_: Request, error: Exception) -> ProblemResponse:
    return ProblemResponse.of(MalformedError(str(error)))


async def _refuse_nobody(_: Request, __: Exception) -> ProblemResponse:
    """Answer a client that has gone: it is never sent, but the log wants a status."""
    return ProblemResponse.of(MalformedError("the client went away before its request was complete"))


async def _refuse_crash(_: Request, __: Exception) -> ProblemResponse:
    return ProblemResponse.of(AbideError("the server failed to answer; its log says why"))

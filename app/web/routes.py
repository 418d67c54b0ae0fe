"""The routes of one channels.yaml.

One route serves all channels: a router asks its routes one after the other, the registry finds a
name at once. The OpenAPI document shows each channel as a path of its own.

A reload builds all of them anew and swaps the whole in one assignment (``app/main.py``): no
request ever sees half of a change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from app.core.channel import PARAMETER, Channel, Registry
from app.core.errors import AbideError, MalformedError, UnknownChannelError
from app.core.hub import Hub
from app.core.ports import Publisher, Source
from app.web.auth import Authenticator
from app.web.channels import ChannelList, Channels
from app.web.health import Health, Readiness
from app.web.pages import add_pages
from app.web.problems import Problem, ProblemResponse, describe
from app.web.push import MAX_ITEMS, Push
from app.web.reads import Reads
from app.web.websocket import Sockets

_CHANNEL_PUSH = "/push/{name}"
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
    status: {
        "description": title,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
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
    """What the routes need of the rest."""

    registry: Registry
    authenticator: Authenticator
    origins: tuple[str, ...]
    publisher: Publisher
    source: Source
    hub: Hub
    health: Health
    version: str
    console: bool = True


class _Application(FastAPI):
    """Shows the one push route of all channels as a path for each."""

    def __init__(self, channels: tuple[Channel, ...], **options: Any) -> None:  # noqa: ANN401 — FastAPI's own
        super().__init__(**options)
        self._channels = channels

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, made when it is first asked for."""
        if self.openapi_schema is None:
            document = super().openapi()
            document["components"]["schemas"]["Problem"] = Problem.model_json_schema()
            push = document["paths"].pop(_CHANNEL_PUSH)["post"]
            document["paths"] |= {f"/push/{c.name}": {"post": push | _operation(c)} for c in self._channels}
        return super().openapi()


class Routes:
    """An ASGI application: pushes and sockets go straight to their handlers, the rest through FastAPI.

    FastAPI knows the push routes too, for its document and for whoever uses them wrongly; but its
    middleware, routing and dependencies cost several times what a push itself does.
    """

    def __init__(self, edge: Edge) -> None:
        self._push = Push(edge.registry, edge.authenticator, edge.publisher)
        self._sockets = Sockets(edge.registry, edge.authenticator, edge.origins, edge.hub, edge.publisher)
        self._reads = Reads(edge.registry, edge.authenticator, edge.hub, edge.source)
        self.documented = _document(edge, self._push)
        """The FastAPI application behind the rest; it has the OpenAPI document."""
        self._http = CORSMiddleware(
            self._dispatch,
            allow_origins=edge.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "idempotency-key", "last-event-id"],
            expose_headers=["idempotency-replayed", "retry-after"],
            max_age=600,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or one WebSocket."""
        if scope["type"] == "websocket":
            await self._sockets(scope, receive, send)
        else:
            await self._http(scope, receive, send)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope["method"] == "POST" and (path == "/push" or path.startswith("/push/")):
            await self._push(scope, receive, send)
        elif scope["method"] in {"GET", "HEAD"} and self._reads.knows(path):
            await self._reads(scope, receive, send)
        else:
            await self.documented(scope, receive, send)


def _document(edge: Edge, push: Push) -> FastAPI:
    """Register the routes of the OpenAPI document."""
    app = _Application(
        edge.registry.channels,
        title="Abide",
        version=edge.version,
        summary="Realtime channels: push over HTTP, subscribe over WebSocket",
        redirect_slashes=False,
        redoc_url=None,
        exception_handlers={
            AbideError: _refuse,
            RequestValidationError: _refuse_request,
            HTTPException: _refuse_route,
            Exception: _refuse_crash,
        },
    )
    _add_health(app, edge.health)
    _add_push(app, push)
    _add_channels(app, Channels(edge.registry, edge.authenticator, edge.hub))
    add_pages(app, console=edge.console)
    _add_rest(app, edge.registry)
    return app


def _add_health(app: FastAPI, health: Health) -> None:
    for path, endpoint in (("/health/live", health.live), ("/health/ready", health.ready)):
        app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
    app.add_api_route("/health/live", health.live, tags=["health"], summary="Is the process alive?")
    app.add_api_route(
        "/health/ready", health.ready, tags=["health"], summary="May it take traffic?", response_model=Readiness
    )


def _add_push(app: FastAPI, push: Push) -> None:
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
    app.add_api_route("/push/{name:path}", push.named, methods=["POST"], tags=["push"], responses=_PROBLEMS)


def _add_channels(app: FastAPI, channels: Channels) -> None:
    app.add_api_route("/channels", channels.head, methods=["HEAD"], include_in_schema=False)
    app.add_api_route(
        "/channels",
        channels.list,
        tags=["channels"],
        summary="The declared channels, with their policies and counters",
        response_model=ChannelList,
        responses={401: _PROBLEMS[401]},
    )


def _operation(channel: Channel) -> dict[str, Any]:
    """Return what the document says of a channel's push, beyond what it says of them all."""
    return {
        "summary": f"Publish to {channel.name}",
        "description": _describe(channel),
        "operationId": f"push_{channel.name}",
        **_channel_body(channel),
    }


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


def _add_rest(app: FastAPI, registry: Registry) -> None:
    """Answer what no route took: with the reason, as a problem."""

    async def rest(request: Request) -> ProblemResponse:
        path = request.scope["path"]
        name = path.removeprefix("/")
        if registry.get(name) is not None:
            return _not_allowed(f"{path} is subscribed to; publish with POST /push{path}", {"GET", "HEAD"})
        if allowed := _methods(app, request):
            return _not_allowed(f"{path} does not take {request.method}", allowed)
        raise _nothing_here(name)

    app.add_api_route("/{name:path}", rest, methods=_ALL_METHODS, include_in_schema=False)


def _nothing_here(name: str) -> UnknownChannelError:
    return UnknownChannelError(f"there is no page and no channel {name[:255]!r} here")


def _methods(app: FastAPI, request: Request) -> set[str]:
    """Return the methods that routes with this path take."""
    partial = [route for route in app.routes if route.matches(request.scope)[0] is Match.PARTIAL]
    return {method for route in partial for method in getattr(route, "methods", None) or ()}


def _not_allowed(detail: str, allowed: set[str]) -> ProblemResponse:
    problem = describe("method_not_allowed", "Method not allowed", detail)
    return ProblemResponse(problem, {"allow": ", ".join(sorted(allowed))})


async def _refuse(_: Request, error: AbideError) -> ProblemResponse:
    return ProblemResponse.of(error)


async def _refuse_request(_: Request, error: Exception) -> ProblemResponse:
    return ProblemResponse.of(MalformedError(str(error)))


async def _refuse_route(request: Request, error: HTTPException) -> ProblemResponse:
    """Answer what the router itself refuses: rare methods, and the target ``*``."""
    if allowed := (error.headers or {}).get("Allow"):
        return _not_allowed(f"{request.scope['path']} does not take {request.method}", set(allowed.split(", ")))
    return ProblemResponse.of(_nothing_here(request.scope["path"]))


async def _refuse_crash(_: Request, __: Exception) -> ProblemResponse:
    return ProblemResponse.of(AbideError("the server failed to answer; its log says why"))

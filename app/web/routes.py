"""The routes of one channels.yaml.

One route serves all channels: a router asks its routes one after the other, the registry finds a
name at once. The documents (``openapi``, ``asyncapi``) show each channel by itself.

A reload builds all of them anew and swaps the whole in one assignment (``app/main.py``): no
request ever sees half of a change.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from app.core.channel import Registry
from app.core.delivery.hub import Hub
from app.core.errors import AbideError, MalformedError, UnknownChannelError
from app.core.intake import BoundedIntake
from app.core.ports import Meter, Publisher, Source
from app.web.documents import asyncapi
from app.web.documents.lazy_document import Document
from app.web.documents.openapi import Documented
from app.web.edge.auth import Authenticator
from app.web.edge.cors import Cors
from app.web.edge.problems import ProblemResponse, describe
from app.web.operate.channels import Channels, CountAll
from app.web.operate.health import Health, Readiness
from app.web.operate.metrics import Exposition, Metrics
from app.web.operate.operators import add_operators_routes
from app.web.operate.pages import add_pages
from app.web.publish.asgi_push import AsgiPush
from app.web.publish.push import Push
from app.web.publish.push_head import is_push
from app.web.subscribe.reads import HISTORY, Reads
from app.web.subscribe.websocket import Sockets

_LONGEST_PATH = 300
"""Characters of a path that are looked at where nothing is: longer than any that a channel has."""

_ALL_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


@dataclass(frozen=True, slots=True)
class Edge:
    """What the routes need of the rest."""

    registry: Registry
    authenticator: Authenticator
    publisher: Publisher
    source: Source
    hub: Hub
    health: Health
    meter: Meter
    metrics: Exposition | None
    """What ``GET /metrics`` answers with; None where it is on a port of its own."""
    version: str
    console: bool = True
    intake: BoundedIntake = field(default_factory=BoundedIntake)
    """Where bodies that are not complete are counted; the process's."""
    count_all: CountAll | None = None
    """Counts the subscriptions of all workers; None where this process is the only one."""
    root_path: str = ""
    """What :class:`~app.web.edge.prefix.Prefix` has taken away."""


class Routes:
    """An ASGI application: pushes and sockets go straight to their handlers, the rest through FastAPI.

    FastAPI knows the push routes too, for whoever uses them wrongly; but its middleware, routing and
    dependencies cost several times what a push itself does.
    """

    def __init__(self, edge: Edge) -> None:
        self.push = Push(edge.registry, edge.authenticator, edge.publisher, edge.meter, edge.intake)
        """Who decides pushes."""
        self._push = AsgiPush(self.push, edge.intake)
        self._sockets = Sockets(edge.registry, edge.authenticator, edge.hub, edge.publisher, edge.intake)
        self._reads = Reads(edge.registry, edge.authenticator, edge.hub, edge.source)
        self.documented = _document(edge, self._push)
        """The FastAPI application behind the rest; it has the OpenAPI document."""
        self.cors = Cors(self._dispatch, edge.authenticator.origins)
        """What serves HTTP, and knows what is added to answers."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or one WebSocket."""
        if scope["type"] == "websocket":
            await self._sockets(scope, receive, send)
        else:
            await self.cors(scope, receive, send)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope["method"] == "POST" and is_push(path):
            await self._push(scope, receive, send)
        elif scope["method"] in {"GET", "HEAD"} and self._reads.knows(path):
            await self._reads(scope, receive, send)
        else:
            await self.documented(scope, receive, send)


def _document(edge: Edge, push: AsgiPush) -> FastAPI:
    """Register the routes that FastAPI serves."""
    app = Documented(
        edge.registry.channels,
        title="Abide",
        version=edge.version,
        summary="Realtime channels: push over HTTP, subscribe over WebSocket",
        redirect_slashes=False,
        openapi_url=None,  # and so no page of FastAPI's: ours are app/web/operate/operators.py
        exception_handlers={
            AbideError: _refuse,
            RequestValidationError: _refuse_request,
            HTTPException: _refuse_route,
            Exception: _refuse_crash,
        },
    )
    _add_health(app, edge.health, edge.authenticator)
    _add_push(app, push)
    add_operators_routes(
        app,
        edge.authenticator,
        channels=Channels(edge.registry, edge.hub, edge.count_all),
        metrics=None if edge.metrics is None else Metrics(edge.metrics),
        asyncapi=Document(partial(asyncapi.describe, edge.registry.channels, edge.version, edge.root_path)),
        docs=edge.console,
    )
    add_pages(app, console=edge.console)
    _add_rest(app, edge.registry)
    return app


def _add_health(app: FastAPI, health: Health, authenticator: Authenticator) -> None:
    async def ready(request: Request) -> Response:
        return await health.ready(request, in_full=authenticator.is_operator(request))

    ready.__doc__ = Health.ready.__doc__
    for path, endpoint in (("/health/live", health.live), ("/health/ready", ready)):
        app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
    app.add_api_route("/health/live", health.live, tags=["health"], summary="Is the process alive?")
    app.add_api_route(
        "/health/ready",
        ready,
        tags=["health"],
        summary="May it take traffic?",
        response_model=Readiness,
        response_model_exclude_unset=True,
        responses={503: {"model": Readiness, "description": "Not ready, and why"}},
    )


def _add_push(app: FastAPI, push: AsgiPush) -> None:
    app.router.routes += [Route(path, push, methods=["POST"]) for path in ("/push", "/push/{name:path}")]


def _add_rest(app: FastAPI, registry: Registry) -> None:
    """Answer what no route took: with the reason, as a problem."""

    async def rest(request: Request) -> ProblemResponse:
        path = request.scope["path"][:_LONGEST_PATH]
        name = path.removeprefix("/")
        if registry.get(name) is not None:
            return _not_allowed(f"{path} is subscribed to; publish with POST /push{path}", {"GET", "HEAD"})
        if registry.get(name.removesuffix(HISTORY)) is not None:
            return _not_allowed(f"{path} is only read", {"GET", "HEAD"})
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

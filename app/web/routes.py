"""All routes of one channels.yaml.

A reload builds them anew and swaps them in one assignment (``app/service.py``), so no request sees half of a change.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from fastapi import FastAPI, Request, Response
from starlette._utils import get_route_path  # as FastAPI has it: Starlette gives it no other name
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.channel import Registry
from app.core.delivery.hub import Hub
from app.core.errors import AbideError, UnavailableError, UnknownChannelError
from app.core.limits.limiter import Limiter
from app.core.ports import Meter, Publisher, Source
from app.web.channel_routes import EVENTS, PUSH, READ, AnyRoute, ChannelRoutes, takes
from app.web.documents import asyncapi
from app.web.documents.lazy_document import Document, Object
from app.web.documents.openapi import Documented
from app.web.documents.without_positions import without_positions
from app.web.edge.auth import Authenticator
from app.web.edge.cors import Cors, is_preflight
from app.web.edge.doors import Doors
from app.web.edge.problems import ProblemResponse, describe
from app.web.operate.channels import Channels, CountAll
from app.web.operate.health import Health, Readiness
from app.web.operate.issue_ticket import add_ticket_route
from app.web.operate.metrics import Exposition, Metrics
from app.web.operate.operators import add_operators_routes
from app.web.operate.overview import Observe, Overview, observe_nothing
from app.web.operate.pages import add_pages
from app.web.operate.taking_back import Revoke, TakingBack, add_taking_back_routes
from app.web.publish.asgi_push import AsgiPush
from app.web.publish.push import Push
from app.web.publish.push_head import ENVELOPED, NAMED
from app.web.subscribe.reads import Reads
from app.web.subscribe.websocket import Sockets

_LONGEST_PATH = 300
"""Characters of a path that are shown in a refusal; no channel has a longer path."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""The methods that the server knows."""

NOT_STARTED = "Abide is not started: give its lifespan to your application, as in FastAPI(lifespan=abide.lifespan)"


@dataclass(frozen=True, slots=True)
class Edge:
    """What the routes need from the rest of the application."""

    registry: Registry
    authenticator: Authenticator
    publisher: Publisher
    source: Source
    hub: Hub
    health: Health
    meter: Meter
    metrics: Exposition | None
    """Makes the answer to ``GET /metrics``; None if the metrics have their own port."""
    version: str
    doors: Doors | None = None
    """Has the authenticator in force, from the next reload on too; None if there is none."""
    console: bool = True
    limiter: Limiter = field(default_factory=Limiter)
    """Counts what the clients of the process take."""
    count_all: CountAll | None = None
    """Counts the subscriptions of all workers; None if this process is the only one."""
    observe: Observe = observe_nothing
    """Looks at what all workers do."""
    root_path: str = ""
    """The prefix that a proxy adds to every path and does not remove."""
    revoke: Revoke = lambda _, __: None
    """Refuses tokens that were taken back in this worker, before the log tells all workers."""
    is_running: Callable[[], bool] = lambda: True
    """Whether the application is started, so that it can store and deliver messages."""
    has_positions: bool = True
    """Whether the backend keeps messages, so that they have positions."""
    openapi: Callable[[], Object] | None = None
    """Returns the OpenAPI document of the whole application; None if it has only these routes."""
    otherwise: ASGIApp | None = None
    """Serves a request that no channel takes, through FastAPI's middleware; None for :meth:`Routes.handle`."""


class Routes:
    """An ASGI application: a request for a channel goes straight to its handler, and all others through FastAPI.

    FastAPI has the routes of the channels too, to list them, run middleware and refuse wrong methods. But its
    middleware, routing and dependencies cost several times as much as a push itself.
    """

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        doors = edge.doors or Doors(edge.authenticator)
        push = Push(edge.registry, edge.authenticator, edge.publisher, edge.meter, edge.limiter)
        self._push = AsgiPush(push, edge.limiter.intake)
        self.sockets = Sockets(edge.registry, edge.authenticator, doors, edge.hub, edge.publisher, edge.limiter)
        """Admits WebSockets, by ASGI or past it."""
        reads = Reads(edge.registry, edge.authenticator, edge.hub, edge.source, edge.limiter.places)
        self.channels = ChannelRoutes(edge.registry, self._push, self.sockets, reads)
        self.pages = _pages(edge)
        """The FastAPI application with the pages and the OpenAPI document."""
        self._pages = _methods(self.pages)
        self._otherwise = edge.otherwise or self.handle
        self.cors = Cors(self._dispatch, edge.authenticator.origins)
        """Around every HTTP request."""
        self.streams = reads, self.cors
        """The same of event streams."""
        self.pushes = push, self.cors
        """What a push past ASGI needs: what decides it, and what adds the CORS headers to its answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or one WebSocket."""
        await (self._dispatch if scope["type"] == "websocket" else self.cors)(scope, receive, send)

    async def behind_middleware(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or one WebSocket through FastAPI, so that added middleware sees it."""
        if scope["type"] == "websocket":
            await self._otherwise(scope, receive, send)
        else:
            await self.cors.around(self._otherwise, scope, receive, send)

    def __iter__(self) -> Iterator[BaseRoute]:
        """Iterate over the routes: first the channels', then the pages'."""
        yield from self.channels
        yield from self.pages.routes

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Say whether a request is for a channel or a page, or a preflight, as a route does."""
        if is_preflight(scope):
            return Match.FULL, {"endpoint": self.cors.preflight}
        route = self.channels.find(scope)
        if route is not None:
            return route.matches(scope)
        methods = self._page(scope)
        if methods is None:
            return Match.NONE, {}
        return (Match.FULL if scope["method"] in methods else Match.PARTIAL), {"endpoint": self.pages}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a preflight or a request for a channel or a page; refuse any other."""
        app = self.cors.preflight if is_preflight(scope) else self._find(scope)
        if app is None:
            route, methods = self.channels.find(scope), self._page(scope)
            if route is not None:
                app = _not_taken(route, scope)
            else:
                app = self.nothing if methods is None else _not_allowed(scope, methods)
        await app(scope, receive, send)

    async def nothing(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a path that has no route; for a push or a WebSocket to an unknown channel, its handler does."""
        path = get_route_path(scope)
        if scope["type"] == "websocket":
            await self.sockets(scope, receive, send)
        elif path.startswith(NAMED):
            app = self._push if scope["method"] == "POST" else _not_allowed(scope, PUSH.methods or ())
            await app(scope, receive, send)
        elif scope["method"] not in _METHODS:
            await _not_allowed(scope, _METHODS)(scope, receive, send)
        else:
            await ProblemResponse.of(_nothing_here(scope))(scope, receive, send)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._find(scope) or self._otherwise)(scope, receive, send)

    def _find(self, scope: Scope) -> ASGIApp | None:
        """Return the application that serves a request for a channel or a page."""
        route = self.channels.find(scope)
        if route is None:
            methods = self._page(scope)
            return self.pages if methods is not None and scope["method"] in methods else None
        if not takes(route, scope):
            return None
        return route.app if self._edge.is_running() else _not_started

    def _page(self, scope: Scope) -> set[str] | None:
        """Return the methods that a page takes; None where there is no page."""
        return self._pages.get(get_route_path(scope)) if scope["type"] == "http" else None


def _pages(edge: Edge) -> Documented:
    """Return the FastAPI application of the pages, which documents them."""
    app = Documented(
        edge.registry.channels,
        title="Abide",
        version=edge.version,
        redirect_slashes=False,
        openapi_url=None,  # and so no page of FastAPI's: ours are app/web/operate/operators.py
        exception_handlers={
            AbideError: _refuse,
            HTTPException: _refuse_route,
            Exception: _refuse_crash,
        },
    )
    _add_health(app, edge.health, edge.authenticator)
    add_operators_routes(
        app,
        edge.authenticator,
        channels=Channels(edge.registry, edge.hub, edge.count_all),
        metrics=None if edge.metrics is None else Metrics(edge.metrics),
        overview=Overview(edge.registry, edge.health, edge.version, edge.observe) if edge.console else None,
        documents=_documents(edge, app),
        docs=edge.console,
    )
    add_ticket_route(app, edge.authenticator)
    _add_taking_back(app, edge)
    add_pages(app, console=edge.console)
    return app


def _documents(edge: Edge, pages: Documented) -> dict[str, Document]:
    openapi = edge.openapi or pages.openapi
    shown: Callable[[Object], Object] = _as_it_is if edge.has_positions else without_positions
    return {
        "/openapi.json": Document(lambda _: shown(openapi())),
        "/asyncapi.json": Document(lambda root: shown(asyncapi.describe(edge.registry.channels, edge.version, root))),
    }


def _as_it_is(document: Object) -> Object:
    return document


def _add_health(app: FastAPI, health: Health, authenticator: Authenticator) -> None:
    async def ready(request: Request) -> Response:
        return await health.ready(request, in_full=await authenticator.is_operator(request))

    ready.__doc__ = Health.ready.__doc__
    for path, endpoint in (("/health/live", health.live), ("/health/ready", ready)):
        app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
    app.add_api_route("/health/live", health.live, tags=["health"], summary="Check whether the process is alive")
    app.add_api_route(
        "/health/ready",
        ready,
        tags=["health"],
        summary="Check whether the server can take traffic",
        response_model=Readiness,
        response_model_exclude_unset=True,
        responses={503: {"model": Readiness, "description": "Not ready, and why"}},
    )


def _add_taking_back(app: FastAPI, edge: Edge) -> None:
    def check_running() -> None:
        if not edge.is_running():
            raise UnavailableError(NOT_STARTED)

    routes = TakingBack(edge.authenticator, edge.publisher, edge.limiter.intake, edge.revoke)
    add_taking_back_routes(app, routes, check_running)


async def _not_started(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
    await ProblemResponse.of(UnavailableError(NOT_STARTED))(scope, receive, send)


def _not_taken(route: AnyRoute, scope: Scope) -> ProblemResponse:
    """Return the refusal of a request with a method that a channel's path does not take."""
    allowed, path = route.kind.methods or (), scope["path"]
    if route.kind is EVENTS:
        push = f"{scope.get('root_path', '')}{NAMED}{get_route_path(scope)[1:]}"
        return _refusal(f"{path} is for subscribing; publish with POST {push}", allowed)
    if route.kind is READ:
        return _refusal(f"{path} is read-only: use GET", allowed)
    return _not_allowed(scope, allowed)


def _nothing_here(scope: Scope) -> UnknownChannelError:
    name = get_route_path(scope)[:_LONGEST_PATH].removeprefix("/")
    is_post = scope["method"] == "POST"
    remedy = f"publish with POST {scope.get('root_path', '')}{ENVELOPED}" if is_post else "declare it in channels.yaml"
    return UnknownChannelError(f"there is no page and no channel {name[:255]!r} here: {remedy}")


def _methods(app: FastAPI) -> dict[str, set[str]]:
    """Return the methods that an application's routes take, by path."""
    methods: dict[str, set[str]] = {}
    for route in app.routes:
        if isinstance(route, Route):
            methods.setdefault(route.path, set()).update(route.methods or ())
    return methods


def _not_allowed(scope: Scope, allowed: Collection[str]) -> ProblemResponse:
    use = " or ".join(sorted(set(allowed) - {"HEAD", "OPTIONS"}))
    return _refusal(f"{scope['path'][:_LONGEST_PATH]} does not take {scope['method']}: use {use}", allowed)


def _refusal(detail: str, allowed: Collection[str]) -> ProblemResponse:
    problem = describe("method_not_allowed", "Method not allowed", detail)
    return ProblemResponse(problem, {"allow": ", ".join(sorted(allowed))})


async def _refuse(_: Request, error: AbideError) -> ProblemResponse:
    return ProblemResponse.of(error)


async def _refuse_route(request: Request, error: HTTPException) -> ProblemResponse:
    """Return the answer to a request that FastAPI itself refuses."""
    if allowed := (error.headers or {}).get("Allow"):
        return _not_allowed(request.scope, set(allowed.split(", ")))
    return ProblemResponse.of(_nothing_here(request.scope))


async def _refuse_crash(_: Request, __: Exception) -> ProblemResponse:
    return ProblemResponse.of(AbideError("the server failed to answer; its log says why"))

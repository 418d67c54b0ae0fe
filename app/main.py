"""The application: FastAPI, with the channels of one channels.yaml."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import structlog
from fastapi import FastAPI
from starlette.datastructures import URLPath
from starlette.routing import BaseRoute, Match, Mount, NoMatchFound
from starlette.types import ASGIApp, Receive, Scope, Send

from app import __version__, telemetry
from app.config import Environment
from app.core.ports import DIRECT, DIRECT_SOCKETS, DIRECT_STREAMS, FANOUT
from app.open_backend import import_backend
from app.service import Service
from app.web.documents.openapi import DESCRIPTION, SERVERS, SUMMARY, merged
from app.web.edge.access import AccessLog
from app.web.edge.prefix import Prefix, enter
from app.web.publish.direct_push import DirectPush
from app.web.routes import Routes
from app.web.subscribe.direct import DirectSockets, DirectStreams

if TYPE_CHECKING:
    from app.telemetry.tracing import Tracing  # an extra

_ROUTES = "abide.routes"
"""The key of the :class:`~app.web.routes.Routes` in a scope: one request keeps the same ones to its end."""

_ASKED = "abide.path"
"""The key of the path in a scope for which the routes were first searched."""

_log = structlog.get_logger("app")


def create_app() -> Abide:
    """Make the application that a worker serves, from the process's environment.

    Raises :class:`~app.config.ConfigError`. ``abide serve`` checks the configuration before it starts workers.
    """
    environment = Environment.read(os.environ)
    telemetry.configure_logging(environment.log_format, environment.log_level)
    return Abide(environment)


def preload(engine: str) -> None:
    """Import what an application with this engine needs when it runs.

    The master calls it before it forks: workers share in memory what it has imported, and nothing that they import.
    """
    import_backend(engine)
    FastAPI().add_api_route("/", preload, response_model=str)  # FastAPI imports much with its first route


class Abide(FastAPI):
    """Channels as a FastAPI application. You can add routes, middleware and handlers as to any other.

    ``routes`` begins with one :class:`starlette.routing.Mount`, which contains the routes of the channels and the
    pages. Your routes come after it. Served by itself, the application starts with the server. Mounted in another
    application, it starts with that one through its :meth:`lifespan`.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._start_over()
        super().__init__(
            title="Abide",
            version=__version__,
            summary=SUMMARY,
            description=DESCRIPTION,
            servers=SERVERS,
            openapi_url=None,  # and so no page of FastAPI's: ours are app/web/operate/operators.py
            lifespan=self.lifespan,
        )
        served = _Served(lambda: self._service.routes)
        self.router.routes.append(served)
        self.router.default = served.nothing

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[dict[str, Any]]:  # noqa: ARG002 — FastAPI's signature
        """Start Abide, and stop it at the end: the lifespan of this application, or of one that it is mounted in.

        Use it as ``FastAPI(lifespan=abide.lifespan)``. A lifespan of your own enters it and yields the state that it
        yields; it may add to that state. Raises RuntimeError if Abide is started already.
        """
        if self._service.is_running:
            msg = "Abide is already started: enter its lifespan only once"
            raise RuntimeError(msg)
        if self._service.was_started:
            self._start_over()
        async with self._service.running() as state:
            # Tracing and middleware see only requests that go through ASGI.
            is_direct = self._tracing is None and not self.user_middleware
            direct = DirectPush(
                self, self._environment.root_path, lambda: self._service.routes.pushes, lambda: len(self.routes) > 1
            )
            sockets = DirectSockets(self, self._environment.root_path, lambda: self._service.routes.sockets)
            streams = DirectStreams(self, self._environment.root_path, lambda: self._service.routes.streams)
            ways = {DIRECT: direct, DIRECT_SOCKETS: sockets, DIRECT_STREAMS: streams}
            yield {**state, **ways} if is_direct else state

    async def publish(self, channel: str, data: object, *, key: str | None = None) -> str:
        """Publish one message from within the process; return its position when it is stored.

        Where the backend keeps no messages (``redis://``), that is ``live:0``, from which nothing can be resumed.

        ``data`` is any value that the json module can write; ``key`` is an idempotency key. The channel's policies do
        not apply: they limit publishers outside this process.

        Raises RuntimeError if the application is not started, and the errors of a push:
        :class:`~app.core.errors.UnknownChannelError`, :class:`~app.core.errors.MalformedError`,
        :class:`~app.core.errors.TooLargeError`, :class:`~app.core.errors.SchemaError`,
        :class:`~app.core.errors.KeyReusedError` and
        :class:`~app.core.errors.UnavailableError`. These are all :class:`~app.core.errors.AbideError`.
        """
        return await self._service.publish(channel, data, key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the lifespan, one request or one WebSocket."""
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        scope[_ROUTES] = self._service.routes
        enter(self._environment.root_path, scope)
        if FANOUT in scope.get("extensions", ()) and (self.user_middleware or not _is_of_the_server(scope, send)):
            scope["extensions"] = {name: value for name, value in scope["extensions"].items() if name != FANOUT}
        await self._edge(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document: the channels, the pages, and the routes that were added."""
        return merged(self._service.routes.pages.openapi(), super().openapi())

    def _start_over(self) -> None:
        """Make a new service for one start, because a service runs only once."""
        self._tracing = _tracing(self._environment)
        self._service = Service(
            self._environment,
            self._tracing,
            openapi=lambda: self.openapi(),  # noqa: PLW0108 — an application may replace it, as FastAPI's manual says
            otherwise=self._through_fastapi,
        )
        app: ASGIApp = self._serve
        if self._environment.root_path:
            app = Prefix(app, self._environment.root_path)
        app = AccessLog(app)
        self._edge = self._tracing.app(app) if self._tracing else app

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve channels directly, and the rest through FastAPI; with added middleware, everything through FastAPI."""
        routes: Routes = scope[_ROUTES]
        await (routes.behind_middleware if self.user_middleware else routes)(scope, receive, send)

    async def _through_fastapi(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, send)


class _Served(Mount):
    """The channels and the pages that are in force, as one route of the application."""

    def __init__(self, in_force: Callable[[], Routes]) -> None:
        super().__init__("", app=self.handle, name="abide")
        self._in_force = in_force

    @property
    def routes(self) -> list[BaseRoute]:
        """The routes of the channels and the pages."""
        return list(self._in_force())

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match as the route of this path does."""
        if scope["type"] not in {"http", "websocket"}:
            return Match.NONE, {}
        # FastAPI tries again with a slash more or less, in order to redirect. Our routes have one path each.
        if scope.setdefault(_ASKED, scope["path"]) != scope["path"]:
            return Match.NONE, {}
        return self._of(scope).matches(scope)

    def __repr__(self) -> str:
        # Mount's shows its application, which is a method of this.
        return f"{type(self).__name__}(path={self.path!r}, name={self.name!r})"

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a matching request."""
        await self._of(scope).handle(scope, receive, send)

    async def nothing(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request that no route of the whole application matches."""
        await self._of(scope).nothing(scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:  # noqa: ANN401 — Starlette's own
        """Return the path of a channel's or a page's route."""
        routes = self._in_force()
        with contextlib.suppress(NoMatchFound):
            return routes.channels.url_path_for(name, **path_params)
        return routes.pages.url_path_for(name, **path_params)

    def _of(self, scope: Scope) -> Routes:
        routes: Routes | None = scope.get(_ROUTES)
        return routes or self._in_force()


def _is_of_the_server(scope: Scope, send: Send) -> bool:
    """Whether ``send`` is the server's own. Code around the application wraps it to see every message."""
    return getattr(send, "__self__", None) is getattr(scope["extensions"][FANOUT], "__self__", scope)


def _tracing(environment: Environment) -> Tracing | None:
    """Return the tracing, if there is a collector to send spans to."""
    if environment.otlp_endpoint is None:
        return None
    try:
        from app.telemetry.tracing import Tracing  # noqa: PLC0415 — an extra, which need not be installed
    except ImportError as error:
        _log.warning("tracing_off", detail=f"install the extra 'tracing' to send spans: {error}")
        return None
    return Tracing()

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
from app.core.ports import DIRECT, FANOUT
from app.service import Service
from app.web.documents.openapi import DESCRIPTION, SERVERS, SUMMARY, merged
from app.web.edge.access import AccessLog
from app.web.edge.prefix import Prefix, enter
from app.web.publish.direct_push import DirectPush
from app.web.routes import Routes

if TYPE_CHECKING:
    from app.telemetry.tracing import Tracing  # an extra

_ROUTES = "abide.routes"
"""The key of a scope under which its :class:`~app.web.routes.Routes` are: one request has the same to its end."""

_ASKED = "abide.path"
"""The key of a scope under which the path is that its routes were first asked for."""

_log = structlog.get_logger("app")


def create_app() -> Abide:
    """Make the application that a worker serves, from the process's environment.

    Raises :class:`~app.config.ConfigError`; ``abide serve`` has checked before.
    """
    environment = Environment.read(os.environ)
    telemetry.configure_logging(environment.log_format, environment.log_level)
    return Abide(environment)


class Abide(FastAPI):
    """Channels as a FastAPI application; routes, middleware and handlers of one's own are added as to any other.

    ``routes`` begins with one :class:`starlette.routing.Mount` that has those of the channels and the pages; what is
    added comes after it. Served by itself it starts with the server. Mounted in another application it starts with
    that, by its :meth:`lifespan`.
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
        """Start, and stop at the end: the lifespan of this application, or of one that it is mounted in.

        ``FastAPI(lifespan=abide.lifespan)``; a lifespan of one's own enters it, and yields what it yields, with more
        if need be. Raises RuntimeError where it is started already.
        """
        if self._service.is_running:
            msg = "Abide is started already: one lifespan is enough"
            raise RuntimeError(msg)
        if self._service.was_started:
            self._start_over()
        async with self._service.running() as state:
            # Spans are made around ASGI requests alone, and middleware sees nothing else.
            is_direct = self._tracing is None and not self.user_middleware
            direct = DirectPush(
                self, self._environment.root_path, lambda: self._service.routes.pushes, lambda: len(self.routes) > 1
            )
            yield {**state, DIRECT: direct} if is_direct else state

    async def publish(self, channel: str, data: object, *, key: str | None = None) -> str:
        """Publish one message from within the process; return its position, when it is stored.

        ``data`` is what the json module writes; ``key`` is an idempotency key. Policies say who may publish from
        outside, and are not asked.

        Raises RuntimeError where the application is not started, and what a push would be refused with:
        :class:`~app.core.errors.UnknownChannelError`, :class:`~app.core.errors.MalformedError`,
        :class:`~app.core.errors.TooLargeError`, :class:`~app.core.errors.KeyReusedError` and
        :class:`~app.core.errors.UnavailableError`, all of them :class:`~app.core.errors.AbideError`.
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
        """Return the OpenAPI document: the channels, the pages, and what was added."""
        return merged(self._service.routes.pages.openapi(), super().openapi())

    def _start_over(self) -> None:
        """Make what a start needs: it runs once."""
        self._tracing = _tracing(self._environment)
        self._service = Service(
            self._environment,
            self._tracing,
            openapi=lambda: self.openapi(),  # noqa: PLW0108 — somebody may set another, as FastAPI's manual says
            otherwise=self._through_fastapi,
        )
        app: ASGIApp = self._serve
        if self._environment.root_path:
            app = Prefix(app, self._environment.root_path)
        app = AccessLog(app)
        self._edge = self._tracing.app(app) if self._tracing else app

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let FastAPI serve what no channel takes, and everything where somebody has added middleware to see it."""
        routes: Routes = scope[_ROUTES]
        await (routes.behind_middleware if self.user_middleware else routes)(scope, receive, send)

    async def _through_fastapi(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, send)


class _Served(Mount):
    """The channels and the pages as one route of the application: those that are in force when a request comes."""

    def __init__(self, in_force: Callable[[], Routes]) -> None:
        super().__init__("", app=self.handle, name="abide")
        self._in_force = in_force

    @property
    def routes(self) -> list[BaseRoute]:
        """All of them, to look at."""
        return list(self._in_force())

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match as the route does that the path is of."""
        if scope["type"] not in {"http", "websocket"}:
            return Match.NONE, {}
        # FastAPI asks again, with a slash more or less, to redirect: ours have one path each.
        if scope.setdefault(_ASKED, scope["path"]) != scope["path"]:
            return Match.NONE, {}
        return self._of(scope).matches(scope)

    def __repr__(self) -> str:
        # Mount's shows its application, which is a method of this.
        return f"{type(self).__name__}(path={self.path!r}, name={self.name!r})"

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request that matches."""
        await self._of(scope).handle(scope, receive, send)

    async def nothing(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request that no route matches, of whomever."""
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
    """Whether a connection can be handed over: only where nothing around the application wants to see what it sends."""
    return getattr(send, "__self__", None) is getattr(scope["extensions"][FANOUT], "__self__", scope)


def _tracing(environment: Environment) -> Tracing | None:
    """Return what makes spans, where there is somebody to send them to."""
    if environment.otlp_endpoint is None:
        return None
    try:
        from app.telemetry.tracing import Tracing  # noqa: PLC0415 — it costs nothing where it is not wanted
    except ImportError as error:
        _log.warning("tracing_off", detail=f"install the extra 'tracing' to send spans: {error}")
        return None
    return Tracing()

"""The routes for operators: channels, metrics, the API's documents and the page that shows them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.responses import PlainTextResponse

from app.core.errors import UnauthorisedError
from app.core.rights.policy import Access
from app.web.documents.lazy_document import Document
from app.web.documents.openapi import KEY_OR_NOTHING, refusal
from app.web.edge.auth import Authenticator
from app.web.edge.problems import ProblemResponse
from app.web.operate.channels import ChannelList, Channels
from app.web.operate.metrics import Metrics
from app.web.operate.overview import PATH, SINCE, Look, Overview
from app.web.operate.pages import add_docs_files, docs_page


def add_operators_routes(  # noqa: PLR0913 — one for each route
    app: FastAPI,
    authenticator: Authenticator,
    *,
    channels: Channels,
    metrics: Metrics | None,
    overview: Overview | None,
    documents: Mapping[str, Document],
    docs: bool,
) -> None:
    """Add the routes, all behind the same check; ``documents`` are keyed by path."""
    routes = _Guarded(app, authenticator)
    routes.add("/channels", channels.head, "the list of channels", methods=["HEAD"], include_in_schema=False)
    routes.add(
        "/channels",
        channels.list,
        "the list of channels",
        tags=["channels"],
        summary="List the declared channels, with their policies and counters",
        response_model=ChannelList,
    )
    if metrics is not None:
        routes.add("/metrics", metrics.answer, "metrics", methods=["HEAD"], include_in_schema=False)
        routes.add(
            "/metrics",
            metrics.answer,
            "metrics",
            tags=["health"],
            summary="Read the metrics, for Prometheus",
            response_class=PlainTextResponse,
        )
    if overview is not None:
        _add_overview(routes, overview)
    for path, document in documents.items():
        routes.add(path, document.answer, path[1:], methods=["GET", "HEAD"], include_in_schema=False)
    if docs:
        _add_docs(app, authenticator)


class _Route(APIRoute):
    """A route whose answers keep their content type: no browser guesses that they are a script or a page."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of a request."""
        answer = super().get_route_handler()

        async def answer_as_said(request: Request) -> Response:
            response = await answer(request)
            response.headers["x-content-type-options"] = "nosniff"
            return response

        return answer_as_said


class _Guarded:
    """Adds routes for operators to an application."""

    def __init__(self, app: FastAPI, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator
        is_open = authenticator.operators is Access.ANYONE
        security = [{Access.KEY: []}] if authenticator.operators is Access.KEY else KEY_OR_NOTHING
        # Where anyone may, a credential that is not good and a page of a foreign origin are refused all the same.
        self._documented: dict[str, dict[Any, Any]] = {
            "responses": {401: refusal(401), 403: refusal(403)},
            "openapi_extra": {} if is_open else {"security": security},
        }

    def add(self, path: str, endpoint: Any, what: str, **options: Any) -> None:  # noqa: ANN401 — FastAPI's own
        """Add a route; ``what`` names its content in a refusal."""

        async def check(request: Request) -> None:
            await self._authenticator.check_operator(request, what)

        router = self._app.router
        documented = {name: value | options.pop(name, {}) for name, value in self._documented.items()}
        router.add_api_route(
            path, endpoint, dependencies=[Depends(check)], route_class_override=_Route, **documented, **options
        )


def _add_overview(routes: _Guarded, overview: Overview) -> None:
    routes.add(PATH, overview.answer, "the overview", methods=["HEAD"], include_in_schema=False)
    routes.add(
        PATH,
        overview.answer,
        "the overview",
        tags=["health"],
        summary="Look at what all workers do now, and did in each of the last seconds",
        response_model=Look,
        responses={400: refusal(400)},
        openapi_extra={"parameters": [SINCE]},
    )


def _add_docs(app: FastAPI, authenticator: Authenticator) -> None:
    """Add the page that shows the API's documents, and the files that it loads.

    A browser cannot send a key when it opens a page. So the 401 for a browser without a key is the page itself: it
    contains no data, asks the user for a key, and reads the document with it.
    """

    async def docs(request: Request) -> Response:
        try:
            await authenticator.check_operator(request, request.scope["path"])
        except UnauthorisedError as error:
            refused = ProblemResponse.of(error)
            if "text/html" not in request.headers.get("accept", ""):
                return refused
            page = docs_page(request, status_code=refused.status_code)
            page.headers["www-authenticate"] = refused.headers["www-authenticate"]
            return page
        return docs_page(request)

    app.add_api_route("/docs", docs, methods=["GET", "HEAD"], include_in_schema=False)
    add_docs_files(app)

"""The application is one of FastAPI's: it has routes, and somebody else's beside them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import structlog
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response, WebSocket
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Match, NoMatchFound, Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.errors import (
    AbideError,
    KeyReusedError,
    MalformedError,
    SchemaError,
    TooLargeError,
    UnavailableError,
    UnknownChannelError,
)
from app.core.ports import DIRECT, FANOUT
from app.main import Abide
from tests.support.application import application, client, scope

STREAM = {"accept": "text/event-stream"}
MANY = 2000
HELD_AT_MOST = 0.05  # seconds of the loop's own work: no other's, however busy the machine is

NONE, PARTIAL, FULL = Match.NONE, Match.PARTIAL, Match.FULL


def routes_of(app: FastAPI) -> Iterator[Any]:
    """Return the routes in an application, and in the routers among them."""

    def walk(routes: list[BaseRoute]) -> Iterator[BaseRoute]:
        for route in routes:
            yield route
            yield from walk(getattr(route, "routes", []))

    return walk(app.routes)


def route_named(app: FastAPI, name: str) -> Any:  # noqa: ANN401 — of one class or the other
    return next(route for route in routes_of(app) if getattr(route, "name", None) == name)


@pytest.fixture
def abide(tmp_path: Path) -> Abide:
    return application(tmp_path)


class Seen:
    """Middleware that notes what passes, in both directions."""

    def __init__(self, app: ASGIApp, seen: list[tuple[str, str]]) -> None:
        self.app = app
        self.seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return

        async def watched(message: Message) -> None:
            self.seen.append((message["type"], scope["path"]))
            await send(message)

        self.seen.append((scope["type"], scope["path"]))
        await self.app(scope, receive, watched)


def first_event(client: TestClient, path: str) -> str:
    """Return the data of the first event of a stream."""
    with client.stream("GET", path, headers=STREAM) as answer:
        assert answer.status_code == 200
        lines: Iterator[str] = answer.iter_lines()
        return next(line for line in lines if line.startswith("data: "))


# Routes.


@pytest.mark.parametrize("name", ["orders", "chat.{room}"])
def test_every_channel_has_routes_that_can_be_read(abide: Abide, name: str) -> None:
    """Application lists for each channel its push, its WebSocket, its events and its history, with path and name."""
    assert isinstance(abide, FastAPI)
    found = {route.name: route for route in routes_of(abide) if getattr(route, "name", "").endswith(f":{name}")}
    paths = {"push": f"/push/{name}", "websocket": f"/{name}", "events": f"/{name}", "history": f"/{name}/history"}
    assert {route.name: route.path for route in found.values()} == {
        f"{kind}:{name}": path for kind, path in paths.items()
    }
    for kind in paths:
        assert isinstance(found[f"{kind}:{name}"], WebSocketRoute if kind == "websocket" else Route)
    assert found[f"push:{name}"].methods == {"POST"}
    assert found[f"history:{name}"].methods == {"GET", "HEAD"}


@pytest.mark.parametrize(
    ("path", "method", "expected"),
    [
        ("/push/orders", "POST", {"push": FULL}),
        ("/push/orders", "GET", {"push": PARTIAL}),
        ("/push/orders", None, {}),
        ("/orders", None, {"websocket": FULL}),
        ("/orders", "GET", {"events": FULL}),
        ("/orders", "HEAD", {"events": FULL}),
        ("/orders", "POST", {"events": PARTIAL}),
        ("/orders/history", "GET", {"history": FULL}),
        ("/orders/history", "DELETE", {"history": PARTIAL}),
        ("/orders/history", None, {}),
        ("/orders/", "GET", {}),
        ("/push/orders/", "POST", {}),
        ("/other", "GET", {}),
    ],
)
@pytest.mark.parametrize("root_path", ["", "/realtime"])
def test_a_route_matches_what_it_is_for(
    abide: Abide, path: str, method: str | None, expected: dict[str, Match], root_path: str
) -> None:
    """Route of a channel matches its path wholly with its method, in part with another, and no other path."""
    asked = scope(path, method, root_path)
    matches = {
        kind: route_named(abide, f"{kind}:orders").matches(asked)[0]
        for kind in ("push", "websocket", "events", "history")
    }
    assert {kind: match for kind, match in matches.items() if match is not NONE} == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/push/chat.42", "42"), ("/push/chat.lobby", None), ("/push/chat.a*b", None), ("/push/chat.", None)],
)
def test_a_familys_route_matches_its_names_alone(abide: Abide, path: str, expected: str | None) -> None:
    """Route of a family matches the names that its parameter can have, and not a channel that is declared by itself."""
    match, child = route_named(abide, "push:chat.{room}").matches(scope(path, "POST"))
    assert match is (NONE if expected is None else FULL)
    assert child.get("path_params") == (None if expected is None else {"room": expected})


def test_paths_are_found_by_their_routes_names(abide: Abide) -> None:
    """Application knows the path of each route by its name, and of no other."""
    assert abide.url_path_for("push:orders") == "/push/orders"
    assert abide.url_path_for("history:chat.{room}", room="42") == "/chat.42/history"
    assert abide.url_path_for("websocket:orders").protocol == "websocket"
    assert abide.url_path_for("ws") == "/ws"
    assert abide.url_path_for("ready") == "/health/ready"
    outer = FastAPI()
    outer.mount("/realtime", abide, name="realtime")
    assert outer.url_path_for("realtime:push:orders") == "/realtime/push/orders"
    for name in ("push:other", "other:orders", "other"):
        with pytest.raises(NoMatchFound):
            abide.url_path_for(name)


def test_a_route_is_a_pattern_too(abide: Abide) -> None:
    """Route of a family has the pattern and the parameters that those of Starlette have."""
    route = route_named(abide, "events:chat.{room}")
    assert route.path_regex.match("/chat.42").groupdict() == {"room": "42"}
    assert list(route.param_convertors) == ["room"]


def test_routes_can_be_printed(abide: Abide) -> None:
    """Application's routes show themselves by name, as a debugger or a failed assertion asks them to."""
    assert "abide" in repr(abide.routes)
    assert "push:orders" in repr(list(routes_of(abide)))


# Many channels.


def many(number: int) -> str:
    return "channels:\n" + "".join(f"  of{number}-{n}: {{publish: key}}\n" for n in range(MANY))


def test_any_number_of_channels_is_one_route_to_the_router(tmp_path: Path) -> None:
    """Router asks one route for 2000 channels, as for one, and whoever lists them gets them all."""
    app = application(tmp_path, many(1))
    assert len(app.router.routes) == len(application(tmp_path).router.routes) == 1
    assert sum(route.name.startswith("push:") for route in routes_of(app) if getattr(route, "name", None)) == MANY
    assert route_named(app, f"push:of1-{MANY - 1}").matches(scope(f"/push/of1-{MANY - 1}", "POST"))[0] is FULL


@pytest.mark.usefixtures("uncollected")
async def test_a_reload_of_many_channels_holds_nobody_up(tmp_path: Path) -> None:
    """Reload swaps the routes of 2000 channels for those of others while the loop turns, and keeps what was added."""
    app = application(tmp_path, many(1))
    app.title = "Mine"
    app.add_api_route("/mine", lambda: 1)
    before = app.routes[0]
    async with app.lifespan(app):
        (tmp_path / "channels.yaml").write_text(many(2))
        longest, last = 0.0, time.thread_time()
        turns_after = 200  # what comes behind the swap holds nobody up either
        while turns_after:
            await asyncio.sleep(0.001)
            now = time.thread_time()
            longest, last = max(longest, now - last), now
            turns_after -= _takes(app, "of2-0")
        assert not _takes(app, "of1-0")
        assert app.routes[0] is before
        assert app.openapi()["info"]["title"] == "Mine"
        assert {"/mine", "/push/of2-0"} < set(app.openapi()["paths"])
    assert longest < HELD_AT_MOST


def _takes(app: Abide, name: str) -> bool:
    return app.routes[0].matches(scope(f"/push/{name}", "POST"))[0] is FULL


# A client of the whole.


def test_a_test_client_pushes_reads_and_subscribes(abide: Abide) -> None:
    """TestClient pushes, reads the history, and subscribes by WebSocket and by events; and again in a second run."""
    for _ in range(2):
        with client(abide) as http:
            assert http.post("/push/orders", json={"id": 1}).json()["offset"] == 1
            assert http.get("/orders/history").json()["messages"][0]["data"] == {"id": 1}
            with http.websocket_connect("/orders?since=earliest") as socket:
                assert socket.receive_json() == {"id": 1}
            with http.websocket_connect("/chat.lobby") as socket:
                socket.send_text("1")
                assert socket.receive_text() == "1"
            assert first_event(http, "/orders?last=1") == 'data: {"id":1}'
            with pytest.raises(WebSocketDenialResponse) as refused, http.websocket_connect("/other"):
                pass
            assert refused.value.json()["code"] == "unknown_channel"


def test_without_its_lifespan_it_says_so(abide: Abide) -> None:
    """Application that was not started refuses requests and sockets for channels, with what to do."""
    http = client(abide)
    for answer in (http.post("/push/orders", json=1), http.get("/orders/history")):
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert "lifespan=abide.lifespan" in answer.json()["detail"]
    with pytest.raises(WebSocketDenialResponse) as refused, http.websocket_connect("/orders"):
        pass
    assert refused.value.status_code == 503
    assert http.get("/health/ready").status_code == 503


# What somebody adds.


def adding(app: Abide) -> Abide:
    """Add routes, and a handler for one error."""

    class TeapotError(Exception):
        pass

    router = APIRouter(prefix="/api")

    @router.get("/refused")
    def refused() -> None:
        raise HTTPException(409, "not now")

    @router.get("/items/{number}")
    def item(number: int) -> int:
        return number

    @router.get("/crash")
    def crash() -> None:
        raise ZeroDivisionError

    @router.get("/tea")
    def tea() -> None:
        raise TeapotError

    app.include_router(router)

    @app.exception_handler(TeapotError)
    def handle(_: Request, __: TeapotError) -> Response:
        return Response("tea", 418)

    @app.websocket("/my-socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("mine")
        await websocket.close()

    app.add_api_route("/push/mine", lambda: "pushed", methods=["POST"])
    app.add_api_route("/orders", lambda: "put", methods=["PUT"])
    app.add_api_route("/slash/", lambda: "slash")
    return app


def test_what_is_added_behaves_as_in_any_application_of_fastapi(abide: Abide) -> None:
    """Routes of somebody's own keep FastAPI's refusals, validation, crashes, handlers and redirects."""
    with client(adding(abide)) as http:
        assert (http.get("/api/refused").status_code, http.get("/api/refused").json()) == (409, {"detail": "not now"})
        assert http.get("/api/items/7").json() == 7
        assert http.get("/api/items/x").status_code == 422
        assert http.get("/api/items/x").json()["detail"][0]["loc"] == ["path", "number"]
        assert http.get("/api/crash").text == "Internal Server Error"
        assert http.get("/api/tea").status_code == 418
        assert http.post("/api/items/7").json() == {"detail": "Method Not Allowed"}
        assert http.get("/slash").json() == "slash"
        with http.websocket_connect("/my-socket") as socket:
            assert socket.receive_text() == "mine"


def test_paths_that_no_channel_has_are_somebodys(abide: Abide) -> None:
    """Routes below /push and methods of a channel's path that Abide does not serve are for whoever adds them."""
    with client(adding(abide)) as http:
        assert http.post("/push/mine").json() == "pushed"
        assert http.put("/orders").json() == "put"
        assert http.post("/push/orders", json=1).json()["offset"] == 1


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "unknown_channel"),
        ("GET", "/few/", 404, "unknown_channel"),
        ("POST", "/push/nothing", 404, "unknown_channel"),
        ("POST", "/push/orders/", 404, "unknown_channel"),
        ("DELETE", "/orders", 405, "method_not_allowed"),
        ("PUT", "/orders/history", 405, "method_not_allowed"),
        ("GET", "/push/orders", 405, "method_not_allowed"),
        ("GET", "/push", 405, "method_not_allowed"),
        ("PUT", "/channels", 405, "method_not_allowed"),
        ("GET", "/orders", 406, "not_acceptable"),
    ],
)
def test_what_is_ours_and_what_nobody_has_is_a_problem(
    tmp_path: Path, method: str, path: str, status: int, code: str
) -> None:
    """Answer to a wrong request for a channel or a page, and for nothing at all, is problem+json."""
    with client(adding(application(tmp_path))) as http:
        answer = http.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


def user() -> str:
    return "walter"


def test_dependencies_are_overridden_as_in_any_application(abide: Abide) -> None:
    """Dependencies of somebody's routes are replaced for tests as in any application of FastAPI."""

    async def whoami(name: Annotated[str, Depends(user)]) -> str:
        return name

    abide.add_api_route("/whoami", whoami)
    with client(abide) as http:
        assert http.get("/whoami").json() == "walter"
        abide.dependency_overrides[user] = lambda: "donny"
        assert http.get("/whoami").json() == "donny"


def test_the_document_has_channels_pages_and_what_was_added(abide: Abide) -> None:
    """OpenAPI document has the channels, the pages and the routes that were added, under the application's title."""
    abide.title = "Mine"
    with client(adding(abide)) as http:
        document = http.get("/openapi.json").json()
    assert document["info"]["title"] == "Mine"
    assert {"/push", "/push/orders", "/chat.{room}/history", "/channels", "/api/items/{number}"} < set(
        document["paths"]
    )
    assert {"Problem", "HTTPValidationError"} < set(document["components"]["schemas"])


# Middleware.


def test_middleware_sees_every_request_and_socket(abide: Abide) -> None:
    """Middleware that was added sees pushes, reads, events and sockets, and what is answered."""
    seen: list[tuple[str, str]] = []
    abide.add_middleware(Seen, seen=seen)

    @abide.middleware("http")
    async def mark(request: Request, call_next: Any) -> Response:  # noqa: ANN401 — Starlette's
        answer: Response = await call_next(request)
        answer.headers["x-mine"] = "1"
        return answer

    with client(abide) as http:
        assert http.post("/push/orders", json=1).headers["x-mine"] == "1"
        assert http.get("/nothing").headers["x-mine"] == "1"
        assert first_event(http, "/orders?last=1") == "data: 1"
        with http.websocket_connect("/orders?since=earliest") as socket:
            assert socket.receive_text() == "1"
    assert [kind for kind, path in seen if path == "/push/orders"] == [
        "http",
        "http.response.start",
        *(["http.response.body"] * sum(entry == ("http.response.body", "/push/orders") for entry in seen)),
    ]
    assert {"http", "websocket", "websocket.accept", "websocket.send", "http.response.body"} <= {
        kind for kind, path in seen if path == "/orders"
    }


@pytest.mark.parametrize("is_added", [False, True])
async def test_the_fast_way_steps_aside_for_middleware(abide: Abide, is_added: bool) -> None:  # noqa: FBT001
    """Application offers the server to answer pushes past ASGI only if nothing was added that is to see them."""
    if is_added:
        abide.add_middleware(Seen, seen=[])
    async with abide.lifespan(abide) as state:
        assert (DIRECT in state) is not is_added
        assert is_added or state[DIRECT].app is abide


class FakeServer:
    """A server that can hand connections over."""

    def __init__(self) -> None:
        self.asked: list[Scope] = []

    async def receive(self) -> Message:
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        pass

    def hand_over(self) -> None:
        pass


@pytest.mark.parametrize("is_wrapped", [False, True])
async def test_a_connection_is_handed_over_only_past_nobody(abide: Abide, is_wrapped: bool) -> None:  # noqa: FBT001
    """Connection is handed over by the server alone: whatever is around the application sees what it sends."""
    server, asked = FakeServer(), scope("/nothing")
    asked["extensions"] = {FANOUT: server.hand_over, "other": {}}

    async def send(message: Message) -> None:
        await server.send(message)

    await abide(asked, server.receive, send if is_wrapped else server.send)
    assert set(asked["extensions"]) == ({"other"} if is_wrapped else {FANOUT, "other"})


def test_pages_of_others_are_told_once_what_they_may_read(abide: Abide) -> None:
    """Answers have the CORS headers once, from somebody's routes too, also beside middleware of somebody's own."""
    origin = {"origin": "https://app.example"}
    adding(abide)
    with client(abide) as http:
        for path in ("/api/items/7", "/orders/history", "/nothing"):
            assert http.get(path, headers=origin).headers.get_list("access-control-allow-origin") == [origin["origin"]]
        asked = origin | {"access-control-request-method": "POST"}
        assert http.options("/api/items/7", headers=asked).status_code == 204


def test_somebodys_own_cors_headers_stay(abide: Abide) -> None:
    """Answer that has a CORS header from middleware gets no second one."""
    abide.add_middleware(CORSMiddleware, allow_origins=["*"])
    with client(abide) as http:
        answer = http.get("/orders/history", headers={"origin": "https://app.example"})
    assert answer.headers.get_list("access-control-allow-origin") == ["*"]


PREFLIGHT = {
    "origin": "https://app.example",
    "access-control-request-method": "POST",
    "access-control-request-headers": "x-mine",
}


def test_added_middleware_sees_preflights_too(abide: Abide) -> None:
    """Middleware sees preflights, too; those that it lets through are answered as channels.yaml says."""
    seen: list[tuple[str, str]] = []
    abide.add_middleware(Seen, seen=seen)
    with client(adding(abide)) as http:
        for path in ("/push/orders", "/api/items/7"):
            answer = http.options(path, headers=PREFLIGHT)
            assert (answer.status_code, answer.headers["access-control-max-age"]) == (204, "600")
            assert ("http", path) in seen


def test_somebodys_own_cors_middleware_answers_preflights(abide: Abide) -> None:
    """Middleware for CORS lets pages send a header of somebody's own."""
    abide.add_middleware(
        CORSMiddleware, allow_origins=[PREFLIGHT["origin"]], allow_methods=["*"], allow_headers=["x-mine"]
    )
    with client(abide) as http:
        answer = http.options("/push/orders", headers=PREFLIGHT)
    assert answer.status_code == 200
    assert "x-mine" in answer.headers["access-control-allow-headers"]
    assert answer.headers.get_list("access-control-allow-origin") == ["https://app.example"]


# Mounted.


def mounted(abide: Abide, path: str = "/realtime") -> FastAPI:
    outer = FastAPI(lifespan=abide.lifespan)
    outer.mount(path, abide)
    return outer


@pytest.mark.parametrize(
    ("variable", "root_path", "mount", "prefix"),
    [
        ("", "", "/realtime", "/realtime"),
        ("/api", "/api", "/realtime", "/api/realtime"),
        ("/api", "", "/api/realtime", "/api/realtime"),
        ("/api", "", "/realtime", "/realtime"),
        ("/api", "", "/realtime", "/realtime/api"),
    ],
)
def test_a_mount_and_a_root_path_are_honoured_everywhere(
    tmp_path: Path, variable: str, root_path: str, mount: str, prefix: str
) -> None:
    """Mounted application serves routes, pages and documents below its path, and names that path in what it says."""
    abide = application(tmp_path, ROOT_PATH=variable)
    with client(mounted(abide, mount), root_path=root_path) as http:
        assert http.post(f"{prefix}/push/orders", json=1).json()["offset"] == 1
        assert http.get(f"{prefix}/orders/history").json()["last"] == 1
        assert first_event(http, f"{prefix}/orders?last=1") == "data: 1"
        with http.websocket_connect(f"{prefix}/orders?last=1") as socket:
            assert socket.receive_text() == "1"
        for page in ("/", "/client.js", "/console/console.js", "/docs", "/docs/docs.js", "/channels", "/openapi.json"):
            assert http.get(f"{prefix}{page}").status_code == 200, page
        servers = http.get(f"{prefix}/asyncapi.json").json()["servers"]
        assert servers["ws"]["variables"]["prefix"]["default"] == prefix
        assert f"POST {prefix}/push/orders" in http.put(f"{prefix}/orders").json()["detail"]
        assert f"{prefix}/orders/history" in http.get(f"{prefix}/orders").json()["detail"]
        assert http.get("/nothing").json() == {"detail": "Not Found"}


def test_a_mounted_application_writes_its_lines(abide: Abide) -> None:
    """Log has one line for each request and connection of a mounted application, with the path in it."""
    outer = mounted(abide)

    @outer.get("/outside")
    def outside() -> None:
        pass

    with structlog.testing.capture_logs() as logged, client(outer) as http:
        http.get("/outside")
        http.post("/realtime/push/orders", json=1)
        with http.websocket_connect("/realtime/orders?last=1") as socket:
            socket.receive_text()
    assert [line["path"] for line in logged if line["event"] in {"request", "connection"}] == [
        "/push/orders",
        "/orders",
    ]


def test_one_application_in_another_writes_one_line(tmp_path: Path) -> None:
    """Log has one line for a request that passes two applications of ours."""
    (tmp_path / "inner").mkdir()
    outer, inner = application(tmp_path), application(tmp_path / "inner")
    outer.mount("/inner", inner)
    with structlog.testing.capture_logs() as logged, client(outer) as http:
        http.get("/inner/health/ready")
        http.get("/inner/nothing")
    assert [line["path"] for line in logged if line["event"] == "request"] == ["/inner/health/ready", "/inner/nothing"]


def test_several_serve_in_one_process(tmp_path: Path) -> None:
    """Applications in one process have channels, logs and middleware each of its own."""
    folders = [tmp_path / name for name in ("a", "b")]
    apps = []
    for folder in folders:
        folder.mkdir()
        apps.append(application(folder))
    with client(mounted(apps[0])) as first, client(mounted(apps[1])) as second:
        assert first.post("/realtime/push/orders", json=1).json()["offset"] == 1
        assert second.get("/realtime/orders/history").json()["last"] == 0
        assert second.post("/realtime/push/orders", json=1).json()["offset"] == 1


async def test_a_second_start_is_refused(abide: Abide) -> None:
    """Application that is started says so to whoever starts it again, and serves on."""
    async with abide.lifespan(abide):
        with pytest.raises(RuntimeError, match="already started"):
            async with abide.lifespan(abide):
                pass
        assert (await abide.publish("orders", 1)).endswith(":1")


# Publishing in-process.


async def test_publishing_in_process_returns_the_position(abide: Abide) -> None:
    """Message that the process publishes is stored, and its position is the one that HTTP would answer."""
    async with abide.lifespan(abide):
        positions = [await abide.publish(name, {"id": 1}) for name in ("orders", "orders", "sealed", "chat.42")]
    assert [position.rpartition(":")[2] for position in positions] == ["1", "2", "1", "1"]


async def test_publishing_in_process_twice_under_a_key_stores_once(abide: Abide) -> None:
    """Idempotency key repeats the first position, and is refused for another message."""
    async with abide.lifespan(abide):
        first = await abide.publish("orders", 1, key="a")
        assert await abide.publish("orders", 1, key="a") == first
        with pytest.raises(KeyReusedError):
            await abide.publish("orders", 2, key="a")


@pytest.mark.parametrize(
    ("channel", "data", "key", "error"),
    [
        ("other", 1, None, UnknownChannelError),
        ("few", "x" * 19, None, TooLargeError),
        ("orders", {1, 2}, None, MalformedError),
        ("orders", float("nan"), None, MalformedError),
        ("orders", "\ud800", None, MalformedError),
        ("orders", 1, "a b", MalformedError),
    ],
)
async def test_what_cannot_be_published_in_process_is_refused(
    abide: Abide, channel: str, data: object, key: str | None, error: type[AbideError]
) -> None:
    """Message that HTTP would refuse is refused to the process too, before it is stored."""
    async with abide.lifespan(abide):
        with pytest.raises(error):
            await abide.publish(channel, data, key=key)


@pytest.mark.parametrize("note", ["small", "large" * 10_000])
async def test_publishing_in_process_what_does_not_fit_the_schema_raises(tmp_path: Path, note: str) -> None:
    """Message that does not fit raises an error that points at what does not, and is not stored."""
    (tmp_path / "order.json").write_text('{"properties": {"id": {"type": "integer"}}}')
    app = application(tmp_path, "backend: memory://\nchannels: {orders: {schema: order.json}}\n")
    async with app.lifespan(app):
        with pytest.raises(SchemaError, match="'/id' does not fit the schema of channel 'orders'") as caught:
            await app.publish("orders", {"note": note, "id": "one"})
        assert caught.value.pointer == "/id"
        assert (await app.publish("orders", {"note": note, "id": 1})).endswith(":1")


async def test_data_that_is_nested_too_deep_is_refused(abide: Abide) -> None:
    """Message that is nested deeper than JSON may be here is refused, however deep."""
    async with abide.lifespan(abide):
        for depth in (129, 100_000):
            data: object = 1
            for _ in range(depth):
                data = [data]
            with pytest.raises(MalformedError):
                await abide.publish("orders", data)


async def test_publishing_while_the_backend_is_away_is_refused(tmp_path: Path) -> None:
    """Message that the backend cannot take is refused in a while, and raises what says so."""
    app = application(tmp_path, "backend: postgres://127.0.0.1:1/abide\nchannels: {orders: {}}\n")
    async with app.lifespan(app):
        with pytest.raises(UnavailableError):
            await app.publish("orders", 1)


async def test_publishing_before_the_start_is_refused(abide: Abide) -> None:
    """Application that is not started, or not any more, says what to do to whoever publishes."""
    with pytest.raises(RuntimeError, match=r"lifespan=abide\.lifespan"):
        await abide.publish("orders", 1)
    async with abide.lifespan(abide):
        pass
    with pytest.raises(RuntimeError, match="not started"):
        await abide.publish("orders", 1)

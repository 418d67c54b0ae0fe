"""Abide in an application of somebody's own, as docs/embedding.md shows it, on real servers."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.support.processes import ROOT
from tests.support.server import Server

PAGE = (ROOT / "docs/embedding.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
CHANNELS = """
operators: anyone
channels:
  orders: {publish: anyone}
  talk: {publish: anyone, client_publish: true}
"""
STREAM = {"accept": "text/event-stream"}

GUNICORN = (sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py")
WALTER = {"user": "walter", "password": "calmer than you are"}

MINE = (
    BLOCKS[3]
    + """
from starlette.types import ASGIApp, Receive, Scope, Send

seen = []


class Seen:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["type"], scope.get("path", "")))
        await self.app(scope, receive, send)


def make_with_a_push():
    app = make()
    app.add_api_route("/push/mine", lambda: "mine", methods=["POST"])
    return app


def make_with_middleware():
    app = make()
    app.add_middleware(Seen)
    app.add_api_route("/seen", lambda: seen)

    @app.middleware("http")
    async def mark(request, call_next):
        answer = await call_next(request)
        answer.headers["x-mine"] = "1"
        return answer

    return app
"""
)


def uvicorn(application: str, *options: str) -> Sequence[str]:
    """Return a command for plain uvicorn, on the port of the environment."""
    return ("bash", "-c", f'exec {sys.executable} -m uvicorn --port "$PORT" {" ".join(options)} {application}')


def modules(folder: Path) -> dict[str, str]:
    """Write the page's modules into a folder; return the environment in which they are found."""
    (folder / "first.py").write_text(BLOCKS[0])
    (folder / "shop.py").write_text(BLOCKS[1])
    (folder / "mine.py").write_text(MINE)
    return {"PYTHONPATH": f"{folder}:{ROOT}", "LOG_LEVEL": "info"}


def events(answer: httpx.Response) -> Iterator[str]:
    """Return the data of the events of a stream."""
    return (line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: "))


@pytest.fixture(
    scope="module",
    params=[uvicorn("shop:app"), (*GUNICORN, "shop:app")],
    ids=["uvicorn", "gunicorn"],
)
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = modules(tmp_path_factory.mktemp("shop"))
    with Server(channels=CHANNELS, env=env, command=request.param, ready_path="/docs") as server:
        yield server


@pytest.fixture
def walter(shop: Server) -> Iterator[httpx.Client]:
    """Log in."""
    with httpx.Client(base_url=shop.url, timeout=10) as http:
        assert http.post("/login", json=WALTER).status_code == 204
        yield http


def cookie(http: httpx.Client) -> dict[str, str]:
    return {"cookie": f"session={http.cookies['session']}"}


def test_a_shop_lets_nobody_in_who_is_not_logged_in(shop: Server) -> None:
    """Application with a login of its own refuses requests and WebSockets without it, and with a forged one."""
    assert httpx.post(f"{shop.url}/login", json=WALTER | {"password": "wrong"}).status_code == 401
    for headers in ({}, {"cookie": "session=walter.0"}, {"cookie": "session=."}):
        for answer in (
            httpx.post(f"{shop.url}/realtime/push/orders", json=1, headers=headers),
            httpx.get(f"{shop.url}/realtime/orders", headers=headers | STREAM),
            httpx.get(f"{shop.url}/realtime/", headers=headers),
        ):
            assert (answer.status_code, answer.json()) == (401, {"detail": "log in first"})
        with pytest.raises(InvalidStatus) as refused:
            connect(f"{shop.ws_url}/realtime/orders", additional_headers=headers)
        assert refused.value.response.status_code == 401


def test_a_shop_serves_people_who_are_logged_in(shop: Server, walter: httpx.Client) -> None:
    """Application with a login lets people push and publishes by itself; both come by WebSocket and SSE, and resume."""
    with connect(f"{shop.ws_url}/realtime/orders", additional_headers=cookie(walter)) as socket:
        position = walter.post("/realtime/push/orders", json={"n": 1}).json()["position"]
        assert socket.recv(timeout=5) == '{"n":1}'
        published = walter.post("/orders", json={"item": "rug"}).json()["position"]
        assert socket.recv(timeout=5) == '{"item":"rug","by":"walter"}'
    history = walter.get("/realtime/orders/history", params={"since": position}).json()
    assert [message["position"] for message in history["messages"]] == [published]
    with connect(f"{shop.ws_url}/realtime/orders?since={position}", additional_headers=cookie(walter)) as socket:
        assert socket.recv(timeout=5) == '{"item":"rug","by":"walter"}'
    with walter.stream("GET", "/realtime/orders", headers=STREAM | {"last-event-id": position}) as answer:
        found = events(answer)
        assert next(found) == '{"item":"rug","by":"walter"}'
        walter.post("/realtime/push/orders", json=2)
        assert next(found) == "2"


def test_a_shop_has_the_console_and_the_documents_below_its_path(walter: httpx.Client) -> None:
    """Mounted application serves its pages and documents below the path, and names it."""
    for path in ("/", "/client.js", "/console/console.js", "/docs", "/openapi.json", "/channels"):
        assert walter.get(f"/realtime{path}").status_code == 200, path
    servers = walter.get("/realtime/asyncapi.json").json()["servers"]
    assert servers["ws"]["variables"]["prefix"]["default"] == "/realtime"


def test_the_first_block_runs_under_a_test_client(tmp_path: Path) -> None:
    """Smallest module serves and publishes under TestClient, which starts and stops it."""
    (tmp_path / "channels.yaml").write_text(CHANNELS)
    script = """
from first import abide, app
from starlette.testclient import TestClient

with TestClient(app, base_url="http://localhost") as http:
    with http.websocket_connect("/realtime/orders") as socket:
        position = http.portal.call(abide.publish, "orders", {"id": 1})
        assert socket.receive_json() == {"id": 1}
    assert http.post("/realtime/push/orders", json=2).json()["offset"] == 2
    history = http.get("/realtime/orders/history").json()["messages"]
    assert [message["data"] for message in history] == [{"id": 1}, 2]
    assert history[0]["position"] == position
"""
    env = modules(tmp_path) | {"CHANNELS_CONFIG": str(tmp_path / "channels.yaml"), "LOG_LEVEL": "error"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_block_with_a_lifespan_of_ones_own_starts_it(tmp_path: Path) -> None:
    """Lifespan that enters Abide's starts it under gunicorn, and a stop tells sockets to come back."""
    text = BLOCKS[0].replace("FastAPI(lifespan=abide.lifespan)", "FastAPI(lifespan=lifespan)")
    imports, _, rest = text.partition("abide = create_app()")
    start, _, end = rest.partition("\n")
    (tmp_path / "own.py").write_text(f"{imports}abide = create_app(){start}\n{BLOCKS[2]}\n{end}")
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = (*GUNICORN, "own:app")
    with Server(channels=CHANNELS, env=env, command=command, ready_path="/realtime/health/ready") as server:
        with connect(f"{server.ws_url}/realtime/talk") as socket:
            socket.send("1")
            assert socket.recv(timeout=5) == "1"
            server.send_signal(15)  # type: ignore[arg-type]
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        assert server.wait() == 0


def test_an_application_of_ones_own_with_middleware(tmp_path: Path) -> None:
    """Application with a router and middleware serves under gunicorn, and the middleware sees everything."""
    gunicorn = f"{sys.executable} -m gunicorn -c {ROOT}/gunicorn.conf.py"
    command = ("bash", "-c", f"cd {tmp_path} && exec {gunicorn} 'mine:make_with_middleware()'")
    env = modules(tmp_path) | {"PYTHONPATH": f"{ROOT}:."}
    with Server(channels=CHANNELS, env=env, command=command) as server, httpx.Client(timeout=10) as http:
        assert http.get(f"{server.url}/shop/hours").json() == "9 to 5"
        for _ in range(3):  # the second has a head that is known
            assert http.post(f"{server.url}/push/orders", json=1).headers["x-mine"] == "1"
        with http.stream("GET", f"{server.url}/orders?last=1", headers=STREAM) as answer:
            assert next(events(answer)) == "1"
        with connect(f"{server.ws_url}/talk") as socket:
            socket.send("1")
            assert socket.recv(timeout=5) == "1"
        seen = [tuple(entry) for entry in http.get(f"{server.url}/seen").json()]
    assert seen.count(("http", "/push/orders")) == 3
    assert {("http", "/orders"), ("websocket", "/talk")} < set(seen)


def test_a_push_path_that_no_channel_has_is_the_applications(tmp_path: Path) -> None:
    """Application that adds a route below /push has its requests, however often, beside those of the channels."""
    command = (*GUNICORN, "mine:make_with_a_push()")
    with Server(channels=CHANNELS, env=modules(tmp_path), command=command) as server, httpx.Client(timeout=10) as http:
        for offset in range(1, 4):  # the second has a head that is known
            assert http.post(f"{server.url}/push/mine", json=1).json() == "mine"
            assert http.post(f"{server.url}/push/orders", json=1).json()["offset"] == offset
        assert http.post(f"{server.url}/push/nothing", json=1).json()["code"] == "unknown_channel"


def test_plain_uvicorn_serves_it() -> None:
    """Application that plain uvicorn makes by its factory serves pushes, events, sockets, and its own routes' paths."""
    command = uvicorn("app.main:create_app", "--factory")
    with Server(channels=CHANNELS, env={"PYTHONPATH": str(ROOT)}, command=command) as server:
        with connect(f"{server.ws_url}/orders") as socket:
            assert httpx.post(f"{server.url}/push/orders", json=1).json()["offset"] == 1
            assert socket.recv(timeout=5) == "1"
        with httpx.stream("GET", f"{server.url}/orders?last=1", headers=STREAM) as answer:
            assert next(events(answer)) == "1"
        assert httpx.get(f"{server.url}/nothing").json()["code"] == "unknown_channel"
        assert server.stop() in {0, -15}

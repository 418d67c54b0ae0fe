"""Which pages may use the server: every way in judges the Origin that a browser sends."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from app.core.errors import ForbiddenError
from app.core.rights.policy import Caller
from app.web.edge.origins import Origins, is_own
from tests.conftest import ServerFactory
from tests.support.server import Server
from tests.web.conftest import KEY
from tests.web.publish.test_push import assert_problem

FOREIGN = [
    "https://evil.example",
    "http://app.example",
    "https://app.example:8443",
    "https://app.example.evil.example",
    "https://evil-app.example",
    "https://example.org",
    "https://evil-example.org",
    "https://a.example.org.evil.example",
    "https://a.example.org:8443",
    "https://.example.org",
    "https://app.example, https://evil.example",
    "",
]
LISTED = ["https://app.example", "https://a.example.org", "https://a.b.example.org"]
PROXIED = {"x-forwarded-for": "192.0.2.1"}
EVENTS = {"accept": "text/event-stream"}

Ask = Callable[[httpx.Client, dict[str, str]], httpx.Response]

WAYS: dict[str, Ask] = {
    "push": lambda http, headers: http.post("/push", json={"channel": "lebowski", "message": 1}, headers=headers),
    "push of text, for which a browser asks nobody": lambda http, headers: http.post(
        "/push/lebowski", content="x", headers=headers | {"content-type": "text/plain"}
    ),
    "push of no type": lambda http, headers: http.post("/push/lebowski", content="x", headers=headers),
    "push to an unknown channel": lambda http, headers: http.post("/push/nope", json=1, headers=headers),
    "events": lambda http, headers: http.head("/lebowski", headers=headers | EVENTS),
    "history": lambda http, headers: http.get("/lebowski/history", headers=headers),
    "channels": lambda http, headers: http.get("/channels", headers=headers | KEY),
    "metrics": lambda http, headers: http.get("/metrics", headers=headers | KEY),
    "openapi": lambda http, headers: http.get("/openapi.json", headers=headers | KEY),
    "asyncapi": lambda http, headers: http.get("/asyncapi.json", headers=headers | KEY),
    "docs": lambda http, headers: http.get("/docs", headers=headers | KEY),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("origin", FOREIGN)
def test_a_page_of_a_foreign_origin_is_refused(http: httpx.Client, way: str, origin: str) -> None:
    """Server answers 403 to pages of foreign origins, whatever they ask, and lets them read nothing."""
    answer = WAYS[way](http, {"origin": origin})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize("way", [way for way in WAYS if way not in {"push of no type", "push to an unknown channel"}])
@pytest.mark.parametrize("origin", [*LISTED, "null", None])
def test_a_page_of_a_listed_origin_is_served(http: httpx.Client, way: str, origin: str | None) -> None:
    """Server serves pages of listed origins, and who is no browser and sends none."""
    assert WAYS[way](http, {} if origin is None else {"origin": origin}).status_code == 200


@pytest.mark.parametrize("way", ["push", "events", "history", "channels", "openapi"])
def test_a_page_of_the_servers_own_is_served(edge: Server, http: httpx.Client, way: str) -> None:
    """Server serves its own pages: those whose Origin is the host that they ask."""
    assert WAYS[way](http, {"origin": edge.url}).status_code == 200
    assert WAYS[way](http, {"origin": "https://abide.test", "host": "abide.test"} | PROXIED).status_code == 200
    assert WAYS[way](http, {"origin": "https://abide.test", "host": "Abide.test:443"} | PROXIED).status_code == 200
    assert WAYS[way](http, {"origin": "https://abide.test", "host": "abide.test:8443"} | PROXIED).status_code == 403


@pytest.mark.parametrize("path", ["/lebowski", "/ws", "/echo"])
@pytest.mark.parametrize("origin", [*FOREIGN[:-1], *LISTED, "null"])
def test_sockets_are_for_pages_that_may_use_the_server(edge: Server, path: str, origin: str) -> None:
    """Server opens sockets for pages of its own and of listed origins, and no others."""

    def status(asked: str) -> int:
        try:
            with connect(f"{edge.ws_url}{path}", origin=Origin(asked), subprotocols=["abide.v1"]):  # type: ignore[list-item]
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code

    assert status(origin) == (101 if origin in (*LISTED, "null") else 403)
    assert status(edge.url) == 101


def test_a_refused_push_is_stored_nowhere_and_counted(server_factory: ServerFactory) -> None:
    """Push of a foreign page is not stored, also when one of a listed page came before it, and is counted."""
    server = server_factory(channels="origins: ['https://app.example']\nchannels: {a: {publish: anyone}}\n")
    with httpx.Client(base_url=server.url) as http:
        statuses = [
            http.post("/push/a", json=number, headers={"origin": f"https://{host}.example"}).status_code
            for number, host in enumerate(["app", "evil"] * 3)
        ]
        assert statuses == [200, 403] * 3
        assert [message["data"] for message in http.get("/a/history").json()["messages"]] == [0, 2, 4]
    server.stop()
    assert [line["status"] for line in server.log if line.get("path") == "/push/a"] == statuses


def test_any_origin_is_any(server: Server) -> None:
    """Server with `origins: ["*"]` serves pages of every origin, and those that have none."""
    for origin in ("https://evil.example", "null"):
        answer = httpx.post(f"{server.url}/push/news", json=1, headers={"origin": origin})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
        assert "access-control-allow-credentials" not in answer.headers


# CORS

PREFLIGHT = {"access-control-request-method": "POST"}


def cors(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access") or name == "vary"}


@pytest.mark.parametrize("path", ["/push/lebowski", "/push/nope", "/health/live"])
def test_answers_say_who_may_read_them(http: httpx.Client, path: str) -> None:
    """Answer, a refusal too, lets pages of listed origins read it, with credentials, and no others."""
    exposed = {"access-control-expose-headers": "idempotency-replayed, retry-after", "vary": "Origin"}

    def answered(origin: dict[str, str]) -> dict[str, str]:
        return cors(http.request("GET" if path.startswith("/health") else "POST", path, json=1, headers=origin))

    assert answered({}) == {"vary": "Origin"}
    assert answered({"origin": "https://evil.example"}) == exposed
    assert answered({"origin": "null"}) == {"access-control-allow-origin": "null", **exposed}
    for origin in LISTED:
        allowed = {"access-control-allow-origin": origin, "access-control-allow-credentials": "true"}
        assert answered({"origin": origin}) == allowed | exposed


@pytest.mark.parametrize("path", ["/push", "/push/lebowski", "/lebowski", "/lebowski/history", "/channels", "/nope"])
def test_a_preflight_allows_what_the_docs_offer(http: httpx.Client, path: str) -> None:
    """Preflight of a listed origin is answered with the methods and headers that pages may use, whatever it asks."""
    asked = "authorization, content-type, idempotency-key, last-event-id, traceparent, tracestate, cache-control"
    for headers in (asked, f"{asked}, x-requested-with", "x-unknown", ""):
        ask = PREFLIGHT | {"origin": "https://app.example", "access-control-request-headers": headers}
        answer = http.options(path, headers=ask)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert answer.headers["vary"] == "Origin"
        assert "POST" in answer.headers["access-control-allow-methods"]
        allowed = set(answer.headers["access-control-allow-headers"].split(", "))
        assert {*asked.split(", "), "x-requested-with"} <= allowed
        assert "x-unknown" not in allowed


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_preflight_of_a_foreign_origin_gets_no_permission(http: httpx.Client, origin: str) -> None:
    """Preflight of a foreign origin is refused, and allows nothing."""
    answer = http.options("/push/lebowski", headers=PREFLIGHT | {"origin": origin})
    assert_problem(answer, 403, "forbidden")
    assert not [name for name in answer.headers if name.startswith("access-control-allow")]


def test_options_without_a_page_is_a_method_like_others(http: httpx.Client) -> None:
    """OPTIONS that is no preflight is refused as other methods are."""
    assert_problem(http.options("/lebowski"), 405, "method_not_allowed")


@pytest.mark.parametrize("path", ["/", "/client.js", "/console/console.js", "/docs/docs.js", "/health/ready"])
def test_files_and_health_are_for_every_page(http: httpx.Client, path: str) -> None:
    """Files without data, and whether the server is ready, are given to whoever asks, and read by listed origins."""
    answer = http.get(path, headers={"origin": "https://evil.example"})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


def test_a_wildcard_costs_no_time() -> None:
    """Origin of sixty thousand labels is judged at once: a pattern that tries every split would take for ever."""
    origins = Origins(("https://*.example.com", "https://*.example.org"))
    with pytest.raises(ForbiddenError):
        origins.check(Caller(origin="https://" + "a." * 30_000))


def test_no_authority_is_nobodys_own() -> None:
    """Origin without a host is not that of a request without one."""
    assert not is_own("null", "")
    assert not is_own("https://", "")


def test_only_pages_of_the_web_are_the_servers_own() -> None:
    """Origin of another scheme than http and https is not the server's own, whatever host it names."""
    for scheme, own in (("http", True), ("https", True), ("ws", False), ("chrome-extension", False), ("x", False)):
        assert is_own(f"{scheme}://abide.test", "abide.test") is own


@pytest.mark.parametrize(
    ("host", "more", "status"),
    [
        ("evil.example:8000", {}, 403),
        ("intranet", {}, 403),
        ("evil.example:8000", {"x-forwarded-for": "192.0.2.1"}, 200),
        ("app.example", {}, 200),
        ("app.localhost:8000", {}, 200),
        ("[::1]:8000", {}, 200),
    ],
)
@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
def test_a_name_that_was_made_to_lead_here_has_no_pages(
    on_loopback: Server, method: str, host: str, more: dict[str, str], status: int
) -> None:
    """Server on loopback takes a page for its own only if its host is this machine, listed, or passed on by a proxy."""
    headers = {"host": host, "origin": f"http://{host}", **more}
    if method == "OPTIONS":
        headers |= PREFLIGHT
    answer = httpx.request(method, f"{on_loopback.url}/push/a", json=1, headers=headers)
    assert answer.status_code == (204 if (method, status) == ("OPTIONS", 200) else status)


@pytest.fixture(scope="module")
def on_loopback() -> Iterator[Server]:
    with Server(channels="origins: ['https://app.example']\nchannels: {a: {publish: anyone}}\n") as server:
        yield server

"""A server that asks a login and an application: what its callers get while those are well, down and wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import httpx
import pytest
from anyio.from_thread import start_blocking_portal
from websockets.sync.client import connect

from tests.support.login import public, sign
from tests.support.server import Server
from tests.support.site import Request, Site, reply

CHANNELS = """
backend: memory://
operators: anyone
origins: ["https://app.example"]
auth:
  tokens: {{jwks: {keys}, issuer: "https://login.example", audience: abide}}
  ask: {{url: {ask}, forward: [cookie], timeout: 500ms}}
channels:
  "user.{{id}}": {{subscribe: {{claim: sub}}, publish: {{claim: sub}}}}
  "doc.{{id}}": {{subscribe: ask, publish: ask, client_publish: true}}
"""
COOKIE = "session=planted-f00dfacef00d"
PATIENCE = 20


class Asked(NamedTuple):
    """The server, and the one that it asks."""

    server: Server
    site: Site
    http: httpx.Client

    def status(self, path: str, **headers: str) -> int:
        return self.http.get(path, headers=headers).status_code


def decide(request: Request) -> bytes:
    """Answer as a login and as an application do: the cookie's owner may use document 7."""
    if request.line.startswith("GET /keys"):
        return reply({"keys": [public("ES256", kid="now")]})
    if request.values("cookie") != [COOKIE]:
        return reply({}, "401 Unauthorized")
    question = json.loads(request.body)
    return reply({"sub": "ada"}) if question["parameter"] == "7" else reply({}, "403 Forbidden")


@pytest.fixture(scope="module")
def asked() -> Iterator[Asked]:
    """Start the server while nothing listens where its login and its application will be."""
    with start_blocking_portal() as portal:
        site = Site(decide)
        with portal.wrap_async_context_manager(site):
            channels = CHANNELS.format(keys=site.url("/keys"), ask=site.url("/ask"))
        with Server(channels=channels) as server, httpx.Client(base_url=server.url, timeout=PATIENCE) as http:
            down = Asked(server, site, http)
            assert_down(down)
            with portal.wrap_async_context_manager(site):
                yield down


def token(**claims: object) -> str:
    now = time.time()
    return sign(
        {"sub": "ada", "iss": "https://login.example", "aud": "abide", "exp": now + 600} | claims, "ES256", "now"
    )


def bearer(raw: str) -> dict[str, str]:
    return {"authorization": f"Bearer {raw}"}


def assert_down(asked: Asked) -> None:
    """Hold that the server serves without its login and its application, and refuses what needs them with 503."""
    refused = [
        asked.http.get("/user.ada/history", headers=bearer(token())),
        asked.http.get("/doc.7/history", headers={"cookie": COOKIE}),
    ]
    assert [answer.status_code for answer in refused] == [503, 503]
    assert all(int(answer.headers["retry-after"]) in range(1, 11) for answer in refused)
    ready = asked.http.get("/health/ready")
    assert ready.status_code == 200
    assert "auth.tokens.jwks" in ready.json()["access"]


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_login_that_comes_back_is_noticed(asked: Asked) -> None:
    """Login that was down at the start is asked again, and tokens and readiness are well from then on."""
    until(lambda: asked.status("/user.ada/history", **bearer(token())) == 200)
    assert "access" not in asked.http.get("/health/ready").json()
    assert asked.status("/user.bob/history", **bearer(token())) == 403
    assert asked.status("/user.ada/history", **bearer(token(iss="https://other.example"))) == 401
    pushed = asked.http.post("/push/user.ada", json=1, headers=bearer(token()))
    assert pushed.status_code == 200


def test_an_application_decides_on_every_way_in(asked: Asked) -> None:
    """Application is asked for a history, an event stream, a push and a socket, and its refusal is 403 on each."""
    mine = {"cookie": COOKIE}
    for document, cookie, status in (("7", mine, 200), ("8", mine, 403), ("7", {}, 403)):
        assert asked.status(f"/doc.{document}/history", **cookie) == status
        assert asked.http.post(f"/push/doc.{document}", json=1, headers=cookie).status_code == status
        with asked.http.stream("GET", f"/doc.{document}", headers=cookie | {"accept": "text/event-stream"}) as events:
            assert events.status_code == status
    with connect(f"{asked.server.ws_url}/ws", additional_headers=mine, subprotocols=["abide.v1"]) as socket:  # type: ignore[list-item]
        for document, expected in (("7", "subscribed"), ("8", "error")):
            socket.send(json.dumps({"type": "subscribe", "channel": f"doc.{document}"}))
            answer = json.loads(socket.recv(PATIENCE))
            assert answer["type"] == expected, answer


@pytest.mark.parametrize(
    "answer",
    [reply({"allowed": False}), reply({}, "500 Oops"), reply({}, "302 Found", "Location: /\r\n"), b"no HTTP\r\n\r\n"],
    ids=["another form", "a bug", "a redirect", "no HTTP"],
)
def test_an_application_that_is_wrong_opens_nothing(asked: Asked, answer: bytes) -> None:
    """Application that answers anything else makes the caller try again, and lets nobody in."""
    asked.site.answer = lambda _: answer
    try:
        refused = asked.http.get("/doc.7/history", headers={"cookie": COOKIE})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert asked.http.post("/push/doc.7", json=1, headers={"cookie": COOKIE}).status_code == 503
    finally:
        asked.site.answer = decide


def test_nothing_that_was_sent_is_shown(asked: Asked) -> None:
    """Server's log, metrics and documents show neither the cookie nor the token that it has got and passed on."""
    raw = token(iss="https://other.example")
    asked.status("/user.ada/history", **bearer(raw))
    shown = [
        asked.http.get(path).text
        for path in ("/metrics", "/channels", "/console/overview", "/openapi.json", "/asyncapi.json")
    ]
    text = "".join([asked.server.text(), *shown])
    assert "ask_failed" in text
    for secret in (COOKIE.partition("=")[2], *raw.split(".")[1:]):
        assert secret not in text


def test_everybody_is_an_operator_where_the_file_says_so(asked: Asked) -> None:
    """Server with ``operators: anyone`` shows a caller with a token what it shows one with nothing."""
    until(lambda: asked.status("/channels", **bearer(token())) != 503)
    assert [asked.status("/channels"), asked.status("/channels", **bearer(token()))] == [200, 200]

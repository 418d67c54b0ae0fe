"""What only operators see, and who is one."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from app.access.auth_settings import AuthSettings, Key
from app.core.errors import UnauthorisedError
from app.core.rights.policy import Access, Identity
from app.web.edge.auth import Authenticator
from app.web.edge.caller import see
from app.web.edge.loopback import FORWARDING
from tests.conftest import ServerFactory
from tests.support.processes import ROOT
from tests.support.server import Server
from tests.web.conftest import KEY
from tests.web.publish.test_push import assert_problem

SHIPPED = (ROOT / "config/channels.yaml").read_text()
SHOWN = ["/channels", "/metrics", "/console/overview", "/docs", "/openapi.json", "/asyncapi.json"]
DEPLOYED = {"HOST": "0.0.0.0"}  # noqa: S104 — as a container does
EVERY_HEADER = [*sorted(FORWARDING), "x-forwarded-for", "x-forwarded-host", "x-forwarded-anything", "x-forwarded"]
OTHERS = [
    *({name: "x"} for name in EVERY_HEADER),
    {"host": "abide.example"},
    {"host": "192.0.2.1:8000"},
    {"host": "[2001:db8::1]"},
    {"host": "localhost."},
    {"host": "intranet"},
    {"host": "abide:8000"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": "http://intranet"},
    {"host": "127.0.0.1.evil.example"},
    {"host": "localhost.evil.example:8000"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost.evil.example"},
]
"""What shows that somebody else asks by way of this machine."""


@pytest.fixture(scope="module")
def local() -> Iterator[httpx.Client]:
    """Return a client of the shipped file, as `make run` serves it."""
    with Server(channels=SHIPPED) as server, httpx.Client(base_url=server.url) as client:
        yield client


@pytest.fixture(scope="module")
def deployed() -> Iterator[Server]:
    """Return a server of the shipped file, as an image without any setting serves it."""
    with Server(channels=SHIPPED, env=DEPLOYED) as server:
        yield server


@pytest.fixture(scope="module")
def keyed() -> Iterator[Server]:
    """Return a server of the shipped file, as an image with keys serves it."""
    with Server(channels=SHIPPED, env=DEPLOYED | {"PUSH_KEYS": "second-key-2"}) as server:
        yield server


@pytest.mark.parametrize("path", SHOWN)
def test_whoever_is_on_this_machine_is_an_operator(local: httpx.Client, path: str) -> None:
    """Server on loopback shows everything to who has no key."""
    answer = local.get(path)
    assert (answer.status_code, answer.headers["x-content-type-options"]) == (200, "nosniff")
    for host in ("localhost:8000", "127.0.0.2", "app.localhost"):
        assert local.get(path, headers={"host": host}).status_code == 200
    assert local.get(path, headers={"host": "[::1]:8000", "origin": "http://localhost:5173"}).status_code == 200


@pytest.mark.parametrize("channel", ["lebowski", "events"])
def test_newcomers_may_publish_on_their_own_machine(local: httpx.Client, channel: str) -> None:
    """Server on loopback takes pushes to the shipped demo channels without a key, by either route."""
    assert local.post(f"/push/{channel}", json=1).status_code == 200
    assert local.post("/push", json={"channel": channel, "message": 1}).status_code == 200


@pytest.mark.parametrize("headers", OTHERS, ids=lambda headers: ": ".join(*headers.items()))
def test_who_comes_by_way_of_this_machine_is_a_stranger(local: httpx.Client, headers: dict[str, str]) -> None:
    """Server on loopback shows nothing to a proxy's client, to another name's page, or to one of another origin."""
    assert_problem(local.get("/channels", headers=headers), 403, "forbidden", "only operators")
    assert_problem(local.post("/push/lebowski", json=1, headers=headers), 403, "forbidden", "only operators")
    assert local.get("/health/ready", headers=headers).json() == {"ready": True}


def test_who_speaks_as_proxies_do_is_a_stranger(local: httpx.Client) -> None:
    """Server on loopback shows nothing to HTTP/1.0, which nginx speaks to what is behind it unless told otherwise."""
    request = b"GET /channels HTTP/1.0\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", local.base_url.port or 0), timeout=5) as connection:
        connection.sendall(request)
        assert connection.recv(100).split()[1] == b"403"


@pytest.mark.parametrize("path", SHOWN)
def test_strangers_see_nothing_of_a_deployed_server(deployed: Server, keyed: Server, path: str) -> None:
    """Server that others can reach shows nothing without a key, also to who connects from this machine."""
    assert_problem(httpx.get(f"{deployed.url}{path}"), 403, "forbidden", "set auth.keys")
    refused = httpx.get(f"{keyed.url}{path}")
    assert_problem(refused, 401, "unauthorised", "no key was sent")
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert httpx.head(f"{keyed.url}{path}").status_code == 401
    wrong = httpx.get(f"{keyed.url}{path}", headers={"authorization": "Bearer x"})
    assert_problem(wrong, 401, "unauthorised", "none of")
    assert httpx.get(f"{keyed.url}{path}", headers=KEY).status_code == 200


@pytest.mark.parametrize("channel", ["lebowski", "events", "orders", "chat.a"])
def test_a_deployed_server_is_nobodys_publish_box(deployed: Server, keyed: Server, channel: str) -> None:
    """Server that others can reach takes nothing without a key on any shipped channel, by HTTP or by socket."""
    bodies = {"/push": {"channel": channel, "message": 1}, f"/push/{channel}": 1}
    for path, body in bodies.items():
        assert httpx.post(f"{deployed.url}{path}", json=body).status_code in (401, 403)
        refused = httpx.post(f"{keyed.url}{path}", json=body)
        assert_problem(refused, 401, "unauthorised")
        assert "www-authenticate" in refused.headers
        assert httpx.post(f"{keyed.url}{path}", json=body, headers=KEY).status_code == 200
    many = httpx.post(f"{keyed.url}/push", json=[bodies["/push"]] * 2).json()
    assert [item["status"] for item in many] == [401, 401]
    for server in (deployed, keyed):
        with connect(f"{server.ws_url}/{channel}") as wire:
            wire.send("1")
            with pytest.raises(ConnectionClosed) as closed:
                wire.recv(timeout=5)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code in (4401, 4403)
        with connect(f"{server.ws_url}/ws", subprotocols=["abide.v1"]) as wire:  # type: ignore[list-item]
            wire.send(json.dumps({"type": "publish", "id": 1, "channel": channel, "data": 1}))
            assert json.loads(wire.recv(timeout=5))["status"] in (401, 403)


def test_operators_may_publish_by_sending(keyed: Server, local: httpx.Client) -> None:
    """Socket of an operator publishes where only operators may: with a key, or on this machine."""
    on_loopback = f"ws://127.0.0.1:{local.base_url.port}/events"
    for url, headers in ((f"{keyed.ws_url}/events", KEY), (on_loopback, {})):
        with connect(url, additional_headers=headers) as wire:
            wire.send('"sent"')
            assert wire.recv(timeout=5) == '"sent"'


def test_health_is_for_everybody_and_its_details_for_operators(
    server_factory: ServerFactory, deployed: Server, keyed: Server
) -> None:
    """Server tells strangers whether it is alive and ready, and operators also why not."""
    for server in (deployed, keyed):
        assert httpx.get(f"{server.url}/health/live").json() == {"live": True}
        for headers in ({}, {"authorization": "Bearer x"}, {"origin": "https://evil.example"}):
            answer = httpx.get(f"{server.url}/health/ready", headers=headers)
            assert (answer.status_code, answer.json()) == (200, {"ready": True})
    assert httpx.get(f"{keyed.url}/health/ready", headers=KEY).json()["backend"].startswith("memory")
    text = "backend: postgres://somebody:secret@127.0.0.1:1/db\nauth: {keys: second-key-2}\nchannels: {a: }\n"
    server = server_factory(channels=text, env=DEPLOYED)
    away = httpx.get(f"{server.url}/health/ready")
    assert (away.status_code, away.json()) == (503, {"ready": False})
    assert "127.0.0.1" in httpx.get(f"{server.url}/health/ready", headers=KEY).json()["reasons"][0]


def test_strangers_are_told_that_a_server_drains(server_factory: ServerFactory) -> None:
    """Server that stops tells strangers so, on a connection that is open, and nothing else."""
    server = server_factory(channels=SHIPPED, env=DEPLOYED | {"DRAIN_SECONDS": "30"})
    with connect(f"{server.ws_url}/lebowski"), connect(f"{server.ws_url}/lebowski"):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        connection.request("GET", "/health/ready")
        connection.getresponse().read()
        server.send_signal(15)  # type: ignore[arg-type]
        server.wait_log(lambda line: str(line["event"]).startswith("Draining"))
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())) == (503, {"ready": False, "reasons": ["draining"]})
        connection.close()


@pytest.mark.parametrize(("operators", "shown"), [("anyone", 200), ("key", 401)])
def test_the_file_says_who_is_an_operator(server_factory: ServerFactory, operators: str, shown: int) -> None:
    """Server shows what is for operators to anyone, or to who has a key, as the file says; a reload changes it."""
    text = "auth: {keys: second-key-2}\nchannels: {a: {publish: operators}}\n"
    server = server_factory(channels=f"operators: {operators}\n{text}")
    for path in SHOWN:
        assert httpx.get(f"{server.url}{path}").status_code == shown
        assert httpx.get(f"{server.url}{path}", headers=KEY).status_code == 200
    assert httpx.post(f"{server.url}/push/a", json=1).status_code == shown
    server.write_channels(text)
    server.wait_log(lambda line: line["event"] == "config_applied")
    assert httpx.get(f"{server.url}/channels").status_code == 200


@pytest.mark.parametrize("operators", ["key", "anyone"])
def test_a_key_that_is_none_is_refused_everywhere(server_factory: ServerFactory, operators: str) -> None:
    """Server answers 401 to a key that is none, also where nobody needs one; without keys there is no wrong one."""
    text = "channels: {a: {publish: anyone}}\n"
    server = server_factory(channels=f"operators: {operators}\nauth: {{keys: second-key-2}}\n{text}")
    wrong = {"authorization": "Bearer x"}
    for method, path, headers in (
        ("POST", "/push/a", {}),
        ("HEAD", "/a", {"accept": "text/event-stream"}),
        ("GET", "/a/history", {}),
        *(("GET", path, {}) for path in SHOWN),
    ):
        refused = httpx.request(method, f"{server.url}{path}", json=1, headers=wrong | headers)
        assert (refused.status_code, "www-authenticate" in refused.headers) == (401, True), path
    for path in ("/a", "/ws", "/echo"):
        with (
            pytest.raises(InvalidStatus) as opened,
            connect(f"{server.ws_url}{path}", subprotocols=["abide.v1"], additional_headers=wrong),  # type: ignore[list-item]
        ):
            pass
        assert opened.value.response.status_code == 401
    server.write_channels(text)
    server.wait_log(lambda line: line["event"] == "config_applied")
    assert httpx.post(f"{server.url}/push/a", json=1, headers=wrong).status_code == 200


def identify(authenticator: Authenticator, headers: dict[str, str], peer: str | None) -> Identity:
    """Return the identity of a caller without a token, which takes no time to tell."""
    identity = authenticator.authenticate(see(headers, peer))
    assert identity is not None
    return identity


@pytest.mark.parametrize(
    ("operators", "peer", "expected"),
    [
        (None, "127.0.0.1", True),
        (None, "::1", True),
        (None, "192.0.2.1", False),
        (None, None, False),
        (Access.KEY, "127.0.0.1", False),
        (Access.ANYONE, None, True),
    ],
)
def test_the_peer_must_be_this_machine(operators: Access | None, peer: str | None, *, expected: bool) -> None:
    """Caller from another address is a stranger, whatever HOST says of where the server listens."""
    authenticator = Authenticator(AuthSettings(), operators=operators, on_loopback=True)
    assert identify(authenticator, {"host": "localhost"}, peer).is_operator is expected


def test_a_key_makes_an_operator() -> None:
    """Caller with a key is an operator, wherever it is; one with a wrong key is nobody, wherever it is."""
    authenticator = Authenticator(AuthSettings((Key(b"k"),)), on_loopback=True)
    headers = {"host": "abide.example", "authorization": "Bearer k"}
    identity = identify(authenticator, headers, "192.0.2.1")
    assert (identity.key is not None, identity.is_operator) == (True, True)
    with pytest.raises(UnauthorisedError):
        identify(authenticator, {"host": "localhost", "authorization": "bearer x"}, "127.0.0.1").check()


def test_a_listed_page_acts_for_the_developer_who_looks_at_it() -> None:
    """Page of an origin that is listed by name is let in on loopback; `*` and `null` are not meant so."""
    authenticator = Authenticator(
        AuthSettings(), ("https://app.example", "https://*.example.org", "null", "*"), on_loopback=True
    )

    for origin, is_let_in in (
        ("https://app.example", True),
        ("http://localhost:5173", True),
        ("https://a.example.org", False),
        ("null", False),
        ("https://a.example", False),
    ):
        headers = {"host": "localhost", "origin": origin, "sec-fetch-site": "cross-site"}
        identity = identify(authenticator, headers, "127.0.0.1")
        assert identity.is_operator is is_let_in


def test_a_browser_of_a_stranger_gets_the_page_that_asks_for_a_key(keyed: Server) -> None:
    """Browser that goes to /docs without a key gets 401 with a page that asks for one, and has no data."""
    refused = httpx.get(f"{keyed.url}/docs", headers={"accept": "text/html,*/*"})
    assert (refused.status_code, refused.headers["content-type"]) == (401, "text/html; charset=utf-8")
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert "lebowski" not in refused.text

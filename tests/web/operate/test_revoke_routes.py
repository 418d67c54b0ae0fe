"""``POST /revoke`` and ``POST /disconnect``, and that nobody else writes what they write."""

import time
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from app.config import ConfigError
from tests.support.application import application, client
from tests.support.server import Server
from tests.web.conftest import KEY
from tests.web.publish.test_push import assert_problem

PATHS = ("/revoke", "/disconnect")


def test_a_key_takes_back_the_tokens_of_a_subject(http: httpx.Client) -> None:
    """Key takes back what was issued up to now, or up to a time, and is answered with what was taken back."""
    before = time.time()
    answer = http.post("/revoke", json={"sub": "auth0|65f"}, headers=KEY)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {"sub": "auth0|65f", "before": pytest.approx(before, abs=10)}
    for seconds in (0, 1790000000.25, time.time() + 3000):
        answer = http.post("/revoke", json={"sub": "42", "before": seconds, "jti": None}, headers=KEY)
        assert (answer.status_code, answer.json()) == (200, {"sub": "42", "before": seconds})


def test_a_key_takes_back_one_token_and_closes_connections(http: httpx.Client) -> None:
    """Key takes back a token by its id, and closes connections by their subject and channel."""
    assert http.post("/revoke", json={"jti": "9f"}, headers=KEY).json() == {"jti": "9f"}
    for body in ({"sub": "42"}, {"sub": "42", "channel": None}):
        assert http.post("/disconnect", json=body, headers=KEY).json() == {"sub": "42", "channel": None}
    body = {"sub": "é 🎳", "channel": "chat.7"}
    assert http.post("/disconnect", json=body, headers=KEY).json() == body


@pytest.mark.parametrize("path", PATHS)
def test_the_body_may_come_as_curl_sends_it(http: httpx.Client, path: str) -> None:
    """Body that ``curl -d`` declares as a form is JSON, unless a page has sent it."""
    form = KEY | {"content-type": "application/x-www-form-urlencoded"}
    assert http.post(path, content=b'{"sub": "42"}', headers=form).status_code == 200
    of_page = form | {"referer": "https://app.example/"}
    assert_problem(http.post(path, content=b'{"sub": "42"}', headers=of_page), 415, "unsupported_type")


@pytest.mark.parametrize("path", PATHS)
def test_whoever_has_no_key_takes_nothing_back(http: httpx.Client, path: str) -> None:
    """Caller without a key, or with a wrong one, is refused before its body is looked at."""
    for headers in ({}, {"authorization": "Bearer wrong"}):
        for body in (b'{"sub": "42"}', b"{"):
            assert_problem(http.post(path, content=body, headers=headers), 401, "unauthorised")
    foreign = KEY | {"origin": "https://evil.example"}
    assert_problem(http.post(path, json={"sub": "42"}, headers=foreign), 403, "forbidden")


def test_a_server_without_keys_takes_nothing_back(server: Server) -> None:
    """Server without keys lets nobody take back, also not who is on its machine, and says what to set."""
    for path in PATHS:
        answer = httpx.post(f"{server.url}{path}", json={"sub": "42"})
        assert_problem(answer, 403, "forbidden", "set auth.keys")


NAMED = """
auth:
  keys:
    - {name: billing, key: billing-key-1, publish: [news]}
    - {name: doorman, key: doorman-key-1, publish: [news], revoke: true}
channels: {news: {publish: key}}
"""


def test_a_named_key_takes_back_if_the_file_says_so(tmp_path: Path) -> None:
    """Named key may take tokens back where the file gives it that right; another one is told how to get it."""
    with client(application(tmp_path, NAMED)) as named:
        for path in PATHS:
            one, other = ({"authorization": f"Bearer {name}-key-1"} for name in ("billing", "doorman"))
            refused = named.post(path, json={"sub": "42"}, headers=one)
            assert_problem(refused, 403, "forbidden", "a named key with 'revoke: true'")
            assert named.post(path, json={"sub": "42"}, headers=other).status_code == 200


REVOKE = {
    "{}": "name either the 'sub' whose tokens to take back, or the 'jti' of one token",
    '{"sub": "42", "jti": "9f"}': "name either the 'sub'",
    '{"sub": null}': "name either the 'sub'",
    '{"sub": 42}': "'sub' must be a string, not 42",
    '{"sub": ""}': "'sub' has 0 characters: a token's has 1 to 255",
    '{"sub": "\\ud800"}': "'sub' contains half of a surrogate pair",
    '{"jti": ["9f"]}': "'jti' must be a string",
    '{"jti": "9f", "before": 1}': "'before' goes with 'sub'",
    '{"sub": "42", "before": "1"}': "'before' must be a number of seconds",
    '{"sub": "42", "before": true}': "'before' must be a number of seconds",
    '{"sub": "42", "before": -1}': "'before' must be a number of seconds",
    '{"sub": "42", "before": 1e999}': "'before' must be a number of seconds",
    '{"sub": "42", "before": 1790000000000}': "more than an hour ahead",
    '{"sub": "42", "befor": 1}': "befor",
    '{"sub": "42", "sub": "43"}': "sub",
    '["42"]': "object",
    '{"sub": "42"': "",
    "": "",
}

DISCONNECT = {
    "{}": "name the 'sub' whose connections to close",
    '{"sub": 1}': "'sub' must be a string",
    '{"sub": "42", "channel": 7}': "'channel' must be a string",
    '{"sub": "42", "channel": "no name"}': "'channel' is 'no name', which is no channel's name",
    '{"sub": "42", "channel": "$access"}': "no channel's name",
    '{"sub": "42", "before": 1}': "before",
}


@pytest.mark.parametrize("body", REVOKE)
def test_a_revocation_that_is_wrong_names_the_member(http: httpx.Client, body: str) -> None:
    """Body that says not what to take back is 400, and the detail names the member."""
    answer = http.post("/revoke", content=body, headers=KEY | {"content-type": "application/json"})
    assert_problem(answer, 400, "malformed", REVOKE[body])


@pytest.mark.parametrize("body", DISCONNECT)
def test_a_disconnection_that_is_wrong_names_the_member(http: httpx.Client, body: str) -> None:
    """Body that says not what to close is 400, and the detail names the member."""
    answer = http.post("/disconnect", content=body, headers=KEY | {"content-type": "application/json"})
    assert_problem(answer, 400, "malformed", DISCONNECT[body])


@pytest.mark.parametrize("path", PATHS)
def test_other_requests_to_take_back_are_refused(http: httpx.Client, path: str) -> None:
    """Body that is too large or no JSON, and another method, are refused as everywhere."""
    large = http.post(path, json={"sub": "x" * 5000}, headers=KEY)
    assert_problem(large, 413, "too_large", "4096")
    text = http.post(path, content="42", headers=KEY | {"content-type": "text/plain"})
    assert_problem(text, 415, "unsupported_type")
    got = http.get(path, headers=KEY)
    assert_problem(got, 405, "method_not_allowed")
    assert got.headers["allow"] == "POST"


def test_nobody_publishes_to_or_reads_a_channel_of_the_servers_own(http: httpx.Client, edge: Server) -> None:
    """Channel that the server keeps for itself is unknown to whoever publishes, reads or subscribes."""
    for name in ("$access", "%24access", "$tickets"):
        assert_problem(http.post(f"/push/{name}", json={}, headers=KEY), 404, "unknown_channel")
        assert_problem(http.get(f"/{name}/history", headers=KEY), 404, "unknown_channel")
        with pytest.raises(InvalidStatus) as caught, connect(f"{edge.ws_url}/{name}"):
            pass
        assert caught.value.response.status_code == 404
    envelope = {"channel": "$access", "message": {"revoke": {"jti": "9f"}}}
    assert_problem(http.post("/push", json=envelope, headers=KEY), 404, "unknown_channel")


@pytest.mark.parametrize("name", ["$access", "$tickets", "revoke", "disconnect"])
def test_no_file_declares_a_name_of_the_servers_own(tmp_path: Path, name: str) -> None:
    """File that declares a channel which the server keeps for itself is refused at start."""
    with pytest.raises(ConfigError):
        application(tmp_path, f'channels: {{"{name}": {{publish: anyone}}}}')


def test_an_application_that_was_not_started_takes_nothing_back(tmp_path: Path) -> None:
    """Request to an application whose lifespan was not entered is 503, and says how to start it."""
    app = application(tmp_path, "auth: {keys: first-key-1}\nchannels: {news: {publish: key}}")
    for path in PATHS:
        answer = client(app).post(path, json={"sub": "42"}, headers={"authorization": "Bearer first-key-1"})
        assert_problem(answer, 503, "unavailable", "not started")


def test_the_document_shows_how_to_take_back(http: httpx.Client) -> None:
    """OpenAPI document has both routes, with their bodies and the key that they need."""
    paths = http.get("/openapi.json", headers=KEY).json()["paths"]
    for path in PATHS:
        route = paths[path]["post"]
        assert route["security"] == [{"key": []}]
        assert "application/json" in route["requestBody"]["content"]
        assert set(route["responses"]) == {"200", "400", "401", "403", "413", "415", "503"}

"""A server under a path that a proxy keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.support.server import SERVE, Server
from tests.web.conftest import PLAIN
from tests.web.publish.test_push import assert_problem

CHANNELS = "channels: {lebowski: {publish: anyone}, realtime: {publish: anyone}}\n"


@pytest.fixture(scope="module", params=[SERVE, PLAIN], ids=["handed over", "plain ASGI"])
def under(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(channels=CHANNELS, env={"ROOT_PATH": "/realtime"}, command=request.param) as server:
        yield server


def test_everything_is_under_the_root_path(under: Server) -> None:
    """Server with a root path has all it serves there: pushes, by either way in, reads, sockets, pages, documents."""
    url = f"{under.url}/realtime"
    with httpx.Client() as http:  # the second push has a head that is known
        assert [http.post(f"{url}/push/lebowski", json=n).json()["offset"] for n in range(3)] == [1, 2, 3]
        assert http.post(f"{url}/push", json={"channel": "realtime", "message": 1}).status_code == 200
    assert len(httpx.get(f"{url}/lebowski/history").json()["messages"]) == 3
    assert httpx.head(f"{url}/realtime", headers={"accept": "text/event-stream"}).status_code == 200
    for path in ("/", "/client.js", "/console/console.js", "/docs", "/docs/docs.js", "/channels", "/metrics"):
        assert httpx.get(f"{url}{path}").status_code == 200, path
    for path in ("/lebowski?last=1", "/realtime", "/ws"):
        with connect(f"{url.replace('http', 'ws')}{path}", subprotocols=["abide.v1"]):  # type: ignore[list-item]
            pass
    assert httpx.post(f"{url}/push/lebowski", json=1, headers={"origin": under.url}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/lebowski/history", "/push/lebowski", "/realtimes/channels", "/docs"])
def test_nothing_is_served_outside_the_root_path(under: Server, path: str) -> None:
    """Server with a root path has nothing without it."""
    assert_problem(httpx.get(f"{under.url}{path}"), 404, "unknown_channel", "ROOT_PATH")
    assert_problem(httpx.post(f"{under.url}{path}", json=1), 404, "unknown_channel")
    with pytest.raises(InvalidStatus) as refused, connect(f"{under.ws_url}{path}"):
        pass
    assert refused.value.response.status_code == 404


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_probes_need_no_root_path(under: Server, path: str) -> None:
    """Server answers health checks with the root path and without: a platform asks the process, not the proxy."""
    assert httpx.get(f"{under.url}{path}").json() == httpx.get(f"{under.url}/realtime{path}").json()
    under.wait_log(lambda line: line["event"] == "serving")
    assert [line for line in under.log if line.get("path") == path] == []


def test_the_root_path_itself_leads_to_the_console(under: Server) -> None:
    """Server sends who asks for the root path without its slash to the one with it."""
    answer = httpx.get(f"{under.url}/realtime?a=b")
    assert answer.status_code == 307
    assert str(httpx.URL(f"{under.url}/realtime").join(answer.headers["location"])) == f"{under.url}/realtime/?a=b"


def test_documents_say_where_the_server_is(under: Server) -> None:
    """Documents lead to the server under its root path."""
    url = httpx.URL(f"{under.url}/realtime/openapi.json")
    document = httpx.get(url).json()
    assert str(url.join(document["servers"][0]["url"])) == f"{under.url}/realtime/"
    servers = json.loads(httpx.get(f"{under.url}/realtime/asyncapi.json").content)["servers"]
    assert {server["variables"]["prefix"]["default"] for server in servers.values()} == {"/realtime"}


def test_log_has_the_path_without_the_root_path(under: Server) -> None:
    """Log names paths as it does behind a proxy that takes the prefix away."""
    httpx.get(f"{under.url}/realtime/lebowski/history?limit=7")
    under.wait_log(lambda line: line.get("path") == "/lebowski/history")

"""What browsers load from the server: the console's files, the client, and the list of channels."""

import re
import time

import httpx
import pytest
from websockets.sync.client import connect

from tests.conftest import ServerFactory
from tests.support.processes import ROOT
from tests.support.server import Server
from tests.web.conftest import KEY
from tests.web.publish.test_push import assert_problem

DOCS = {
    "/docs/docs.js": "text/javascript",
    "/docs/docs.css": "text/css",
    "/docs/swagger-ui-bundle.js": "text/javascript",
    "/docs/swagger-ui.css": "text/css",
}
TYPES = {".js": "text/javascript", ".css": "text/css"}
CONSOLE = sorted(path for path in (ROOT / "app/web/console").rglob("*") if path.suffix in TYPES)
PAGES = {"/": "text/html"} | {f"/{path.relative_to(ROOT / 'app/web')}": TYPES[path.suffix] for path in CONSOLE}


@pytest.mark.parametrize("path", PAGES | DOCS)
def test_the_files_of_the_console_are_served(http: httpx.Client, path: str) -> None:
    """Files of the console and of /docs come with their types, are asked for anew each time, and are not sent twice."""
    answer = http.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == f"{(PAGES | DOCS)[path]}; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = http.get(path, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = http.head(path)
    assert (head.status_code, head.headers["etag"], head.content) == (200, answer.headers["etag"], b"")


def test_the_files_of_a_page_are_no_lines_of_the_log(edge: Server, http: httpx.Client) -> None:
    """Log has a line for a page, and for a file that is missing, but none for each file that the page loads."""
    http.get("/console/console.js")
    http.get("/console/nothing.js")
    files = ("/console/console.js", "/console/nothing.js")
    assert edge.wait_log(lambda line: line.get("path") in files)["path"] == "/console/nothing.js"


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_page_may_load_nothing_from_elsewhere(http: httpx.Client, path: str) -> None:
    """Page allows scripts and styles of this server alone, and has none inside."""
    page = http.get(path, headers=KEY)
    policy = page.headers["content-security-policy"].split("; ")
    assert policy[:3] == ["default-src 'none'", "script-src 'self'", "style-src 'self'"]
    assert not any("unsafe" in directive or "*" in directive for directive in policy)
    assert "style=" not in page.text
    assert re.findall(r"<script(?![^>]* src=)|<script[^>]*>(?!</script>)|<style", page.text) == []
    assert "://" not in page.text


def test_client_is_kept_for_an_hour_and_may_be_imported_by_other_pages(http: httpx.Client) -> None:
    """Client is one module without imports, kept by browsers, for the pages of the configured origins."""
    answer = http.get("/client.js", headers={"origin": "https://app.example"})
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["cache-control"] == "public, max-age=3600"
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert answer.content == http.get("/console/client.js").content
    assert len(answer.text.splitlines()) < 350
    assert not any(line.startswith("import ") for line in answer.text.splitlines())


def test_what_is_only_read_is_not_written(http: httpx.Client) -> None:
    """Server refuses other methods for its pages with 405 and those that it takes."""
    answer = http.post("/", json=1)
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD"


def test_console_can_be_turned_off(server_factory: ServerFactory) -> None:
    """Server with `console: false` has no page, nor that of the API, and still the client; a reload turns them on."""
    text = "console: false\nchannels: {a: }\n"
    server = server_factory(channels=text)
    for path in (*PAGES, *DOCS, "/docs"):
        assert_problem(httpx.get(f"{server.url}{path}"), 404, "unknown_channel")
    assert httpx.get(f"{server.url}/client.js").status_code == 200
    server.write_channels(text.replace("false", "true"))
    server.wait_log(lambda line: line["event"] == "config_applied")
    assert httpx.get(f"{server.url}/").status_code == 200
    assert httpx.get(f"{server.url}/docs").status_code == 200


def test_list_of_channels_needs_a_key_where_operators_do(http: httpx.Client) -> None:
    """List is refused with 401 without one of the configured keys."""
    assert_problem(http.get("/channels"), 401, "unauthorised", "no key was sent")
    assert_problem(http.get("/channels", headers={"authorization": "Bearer x"}), 401, "unauthorised", "none of")
    assert http.head("/channels").status_code == 401
    assert http.head("/channels", headers=KEY).status_code == 200
    assert http.get("/channels", headers=KEY).headers["cache-control"] == "no-store"


def test_the_list_shows_each_channels_policy(http: httpx.Client) -> None:
    """List has every declared channel with its policy, in the order of the file."""
    channels = http.get("/channels", headers=KEY).json()["channels"]
    assert [channel["name"] for channel in channels][:3] == ["lebowski", "talk", "listen"]
    assert channels[1] | {"subscribers": 0, "head": None} == {
        "name": "talk",
        "publish": "anyone",
        "subscribe": "anyone",
        "client_publish": True,
        "history": {"size": 1000, "ttl": 86400},
        "max_message_size": 65536,
        "rate_limit": None,
        "schema": None,
        "subscribers": 0,
        "head": None,
    }


def test_the_list_counts_subscribers_by_declared_channel(server_factory: ServerFactory) -> None:
    """List counts each channel's subscribers, those of a family together, and shows the head of who has any."""
    server = server_factory(channels="channels: {a: {publish: anyone}, 'b.{x}': {publish: anyone}}\n")
    with (
        connect(f"{server.ws_url}/a"),
        connect(f"{server.ws_url}/b.1") as first,
        connect(f"{server.ws_url}/b.1"),
        connect(f"{server.ws_url}/b.2"),
    ):
        httpx.post(f"{server.url}/push/a", json=1)
        httpx.post(f"{server.url}/push/b.1", json=1)
        first.recv(timeout=5)
        assert counters(server) == {"a": (1, 1), "b.{x}": (3, None)}
    server.wait_log(lambda line: line["event"] == "connection" and line["path"] == "/a")
    assert counters(server)["a"] == (0, None)
    assert "/channels" in httpx.get(f"{server.url}/openapi.json").json()["paths"]


def counters(server: Server) -> dict[str, tuple[int, int | None]]:
    channels = httpx.get(f"{server.url}/channels").json()["channels"]
    return {channel["name"]: (channel["subscribers"], channel["head"]) for channel in channels}


@pytest.mark.parametrize("since", ["", "-1", "1.5", "x", "1" * 12])
def test_an_overview_since_no_second_is_refused(http: httpx.Client, since: str) -> None:
    """Overview since what is no second is refused with 400."""
    assert_problem(http.get("/console/overview", params={"since": since}, headers=KEY), 400, "malformed", "'since'")


def test_an_overview_goes_on_where_the_last_one_ended(http: httpx.Client) -> None:
    """Overview has the seconds after the one that it is asked for, and nothing of what the next one will tell."""
    look = http.get("/console/overview", headers=KEY)
    assert look.headers["cache-control"] == "no-store"
    until = look.json()["until"]
    later = http.get("/console/overview", params={"since": until}, headers=KEY).json()
    assert [second for second, *_ in later["seconds"] if second <= until] == []


def test_the_overview_names_no_channel_of_the_servers_own(server_factory: ServerFactory) -> None:
    """Overview names the busy channels of the file, by both of their names, and none of the server's own."""
    secret = "a-secret-of-more-than-thirty-two-bytes"
    tokens = f"auth: {{keys: second-key-2, tokens: {{secret: {secret}}}}}\n"
    server = server_factory(channels=tokens + "operators: anyone\nchannels: {'b.{x}': {publish: key}}\n")
    httpx.post(f"{server.url}/push/b.1", json=1, headers=KEY).raise_for_status()
    httpx.post(f"{server.url}/revoke", json={"sub": "42"}, headers=KEY).raise_for_status()
    deadline = time.monotonic() + 10
    while not (seen := httpx.get(f"{server.url}/console/overview").json())["seconds"] or not seen["rates"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert seen["busiest"] == [{"channel": "b.1", "declared": "b.{x}", "rate": 0.1}]
    assert seen["rates"] == {"b.{x}": 0.1}
    assert sum(published for _, published, *_ in seen["seconds"]) == 1

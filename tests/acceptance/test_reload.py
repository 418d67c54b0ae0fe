"""Editing channels.yaml while the server runs."""

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from tests.conftest import ServerFactory
from tests.support.server import LogLine, Server

BEFORE = "channels: {lebowski: {publish: anyone}, walter: {publish: anyone}}\n"


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    with Server(channels=BEFORE) as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Server:
    """Return the server of all tests that end no process, with the file ``BEFORE``."""
    return serving(shared, BEFORE)


def serving(server: Server, text: str) -> Server:
    """Let a server serve a file, and return it: it does already where its file is this one."""
    if server.channels_path.read_text() != text:
        edit(server, text)
    return server


def edit(server: Server, text: str, event: str = "config_applied", *, timeout: float = 20) -> LogLine:
    """Rewrite the file and wait until the server says what it made of it; fail after ``timeout`` seconds."""
    seen = len(server.log)
    server.write_channels(text)
    return server.wait_log(lambda line: line["event"] == event and line in server.log[seen:], timeout=timeout)


def workers(server: Server) -> set[int]:
    return {line["pid"] for line in list(server.log) if line["event"] == "serving"}


def position(server: Server, channel: str) -> tuple[str, int]:
    """Publish, and return the epoch and the offset."""
    answer = httpx.post(f"{server.url}/push/{channel}", json="x").json()
    return answer["epoch"], answer["offset"]


def push(server: Server, channel: str) -> int:
    return httpx.post(f"{server.url}/push/{channel}", json="x").status_code


def test_an_added_channel_is_there(server: Server) -> None:
    """Server serves a channel added to the file: its push route, its socket, its documentation."""
    assert "donny" not in httpx.get(f"{server.url}/asyncapi.json").json()["channels"]
    line = edit(server, BEFORE.replace("walter", "donny: {publish: anyone}, walter"))
    assert line["added"] == ["donny"]
    with connect(f"{server.ws_url}/donny") as subscriber:
        assert push(server, "donny") == 200
        assert subscriber.recv(timeout=5) == '"x"'
    assert "/push/donny" in httpx.get(f"{server.url}/openapi.json").json()["paths"]
    assert "donny" in httpx.get(f"{server.url}/asyncapi.json").json()["channels"]


def test_a_changed_policy_is_named_in_the_log(server: Server) -> None:
    """Server says which channel's policy an edit has changed, from what to what."""
    line = edit(server, BEFORE.replace("walter: {publish: anyone}", "walter: {publish: nobody}"))
    assert (line["added"], line["removed"]) == ([], [])
    assert line["changed"] == ["channels.walter.publish: anyone -> nobody"]
    assert push(server, "walter") == 403


def test_a_removed_channel_is_gone_and_others_stay(server: Server) -> None:
    """Server closes a removed channel's sockets with 4404, and leaves the others connected."""
    with connect(f"{server.ws_url}/walter") as removed, connect(f"{server.ws_url}/lebowski") as kept:
        edit(server, "channels: {lebowski: {publish: anyone}}\n")
        with pytest.raises(ConnectionClosed) as closed:
            removed.recv(timeout=5)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4404
        assert push(server, "walter") == 404
        with pytest.raises(InvalidStatus), connect(f"{server.ws_url}/walter"):
            pass
        assert push(server, "lebowski") == 200
        assert kept.recv(timeout=5) == '"x"'


def test_a_channel_that_comes_back_continues_its_offsets(server: Server) -> None:
    """Server keeps a removed channel's log, and goes on from there when it is declared again."""
    epoch, offset = position(server, "walter")
    edit(server, "channels: {lebowski: {publish: anyone}}\n")
    edit(server, BEFORE)
    assert position(server, "walter") == (epoch, offset + 1)


def test_a_broken_edit_changes_nothing_and_is_reported_with_its_line(server: Server) -> None:
    """Server goes on with the old file, says what is wrong in log and health, and forgets it when it is corrected."""
    with connect(f"{server.ws_url}/walter") as subscriber:
        before = httpx.get(f"{server.url}/health/ready").json()["config"]
        line = edit(server, "channels:\n  lebowski: {publsh: anyone}\n", "config_refused")
        assert "channels.yaml:2:14: channels.lebowski.publsh" in line["problems"][0]
        ready = httpx.get(f"{server.url}/health/ready")
        assert ready.status_code == 200
        assert ready.json()["config"]["hash"] == before["hash"]
        assert "publsh" in ready.json()["config"]["error"]
        assert push(server, "walter") == 200
        assert subscriber.recv(timeout=5) == '"x"'
        edit(server, BEFORE)
        assert httpx.get(f"{server.url}/health/ready").json()["config"] == before


def test_a_file_with_thousands_of_mistakes_is_reported_briefly(server: Server) -> None:
    """Server says of twenty thousand bad channels what is wrong with the first ones, in log and health."""
    names = "".join(f"  c{number}: {{publsh: x}}\n" for number in range(20_000))
    line = edit(server, f"channels:\n{names}", "config_refused", timeout=30)
    assert len(line["problems"]) == 11
    assert "channels.yaml:2:8: channels.c0.publsh" in line["problems"][0]
    assert line["problems"][-1] == "and 19990 more"
    ready = httpx.get(f"{server.url}/health/ready")
    assert ready.json()["config"]["error"].splitlines() == line["problems"]
    assert len(ready.content) < 8192


def test_a_mistake_that_is_long_is_reported_briefly(server: Server) -> None:
    """Server shortens what it says of a key that is as long as the whole file."""
    line = edit(server, f"channels:\n  a: {{{'x' * 900_000}: 1}}\n", "config_refused", timeout=30)
    assert len(str(line["problems"])) < 1024
    assert len(httpx.get(f"{server.url}/health/ready").content) < 1024


def kill_worker(server: Server) -> None:
    pid = min(workers(server))
    os.kill(pid, signal.SIGKILL)
    wait_until_ended(server, {pid})


def replace_workers(server: Server) -> None:
    old = workers(server)
    server.send_signal(signal.SIGHUP)
    wait_until_ended(server, old)


def wait_until_ended(server: Server, pids: set[int]) -> None:
    """Wait for the master's word: whoever connects to a worker that ends is not answered."""
    for pid in pids:
        server.wait_log(partial(is_told, f"Worker (pid:{pid}) was sent SIG"))


def is_told(beginning: str, line: LogLine) -> bool:
    return str(line["event"]).startswith(beginning)


@pytest.mark.parametrize("replace", [kill_worker, replace_workers])
@pytest.mark.parametrize("broken", ["channels:\n  lebowski: {publsh: anyone}\n", ""], ids=["mistaken", "empty"])
def test_a_worker_that_begins_while_the_file_is_broken_serves_the_last_good_one(
    server_factory: ServerFactory, replace: Callable[[Server], None], broken: str
) -> None:
    """Worker that takes over after a broken edit serves what the others did, says what is wrong, takes the next."""
    server = server_factory(channels=BEFORE)
    edit(server, BEFORE.replace("walter", "donny: {publish: anyone}, walter"))
    edit(server, broken, "config_refused")
    seen = len(server.log)
    replace(server)
    pid = server.wait_log(lambda line: line["event"] == "serving" and line in server.log[seen:])["pid"]
    refused = server.wait_log(lambda line: line["event"] == "config_refused" and line["pid"] == pid)
    assert "channels.yaml:" in refused["problems"][0]
    assert push(server, "donny") == 200
    assert "channels.yaml" in httpx.get(f"{server.url}/health/ready").json()["config"]["error"]
    edit(server, BEFORE)
    assert push(server, "donny") == 404
    assert server.stop() == 0


def test_new_rules_hold_for_open_sockets(server: Server) -> None:
    """Server applies changed rules to sockets that are open already."""
    with connect(f"{server.ws_url}/walter") as subscriber:
        edit(server, BEFORE.replace("walter: {", "walter: {client_publish: true, "))
        subscriber.send('"by sending"')
        assert subscriber.recv(timeout=5) == '"by sending"'


KEYED = "auth: {keys: [first-key-1, second-key-2]}\norigins: [https://app.example]\n"
HELD = "channels: {a: {publish: key, client_publish: true}, b: {publish: operators, client_publish: true}}\n"
FIRST = {"authorization": "Bearer first-key-1"}
SECOND = {"authorization": "Bearer second-key-2"}


def close_code(socket: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012 — whatever comes before the close
        while True:
            socket.recv(timeout=5)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


def stored(server: Server) -> int:
    """Return how many messages channel ``a`` has."""
    return len(httpx.get(f"{server.url}/a/history", headers=SECOND).json()["messages"])


@pytest.mark.parametrize(("path", "subprotocol"), [("/a", None), ("/a", "abide.v1"), ("/ws", "abide.v1")])
def test_a_key_that_is_taken_away_takes_its_sockets_with_it(shared: Server, path: str, subprotocol: str | None) -> None:
    """Server closes the sockets of a key that is removed with 4401, and leaves those of other keys."""
    server = serving(shared, KEYED + HELD)
    before = stored(server)
    asked = [Subprotocol(subprotocol)] if subprotocol else None
    url = f"{server.ws_url}{path}"
    with (
        connect(url, additional_headers=FIRST, subprotocols=asked) as removed,
        connect(url, additional_headers=SECOND, subprotocols=asked) as kept,
        connect(url, subprotocols=asked) as keyless,
    ):
        edit(server, KEYED.replace("first-key-1, ", "") + HELD)
        assert close_code(removed) == 4401
        kept.send('{"type": "publish", "channel": "a", "data": 1}')
        kept.ping().wait(5)
        keyless.ping().wait(5)
        assert stored(server) == before + 1


def test_operators_that_are_none_any_more_publish_nothing(shared: Server) -> None:
    """Server that is told `operators: key` takes nothing more of sockets that were operators' for being local."""
    server = serving(shared, HELD)
    with connect(f"{server.ws_url}/b") as socket:
        socket.send("1")
        assert socket.recv(timeout=5) == "1"
        edit(server, "operators: key\n" + KEYED + HELD)
        socket.send("2")
        assert close_code(socket) == 4401


def test_a_page_whose_origin_is_removed_is_disconnected(shared: Server) -> None:
    """Server closes the sockets of a removed origin with 4403, and ends its event streams and long-polls."""
    server = serving(shared, KEYED + HELD)
    page = Origin("https://app.example")
    headers = {"origin": page, "accept": "text/event-stream"}
    with (
        connect(f"{server.ws_url}/a", origin=page) as removed,
        connect(f"{server.ws_url}/ws", origin=page, subprotocols=[Subprotocol("abide.v1")]) as idle,
        connect(f"{server.ws_url}/a") as kept,
        httpx.stream("GET", f"{server.url}/a", headers=headers, timeout=5) as events,
    ):
        edit(server, KEYED.replace("app.", "other.") + HELD)
        assert close_code(removed) == close_code(idle) == 4403
        assert '"code":4403' in events.read().decode()
        assert kept.ping().wait(5)


def test_a_changed_backend_asks_for_a_restart(server: Server) -> None:
    """Server logs that a changed backend needs a restart, and serves on."""
    edit(server, "backend: memory://other\n" + BEFORE, "restart_needed")
    assert push(server, "walter") == 200


@pytest.mark.parametrize("replace", [kill_worker, replace_workers])
def test_a_changed_backend_splits_no_log(
    server_factory: ServerFactory, database_url: str, replace: Callable[[Server], None]
) -> None:
    """Worker that takes over after the backend was changed stores where the others do, and says so."""
    backend = f"backend: {database_url}\n"
    server = server_factory(channels=backend + BEFORE, env={"WEB_CONCURRENCY": "2"})
    server.wait_log(lambda _: len(workers(server)) == 2)
    before = position(server, "walter")
    edit(server, "backend: memory://\n" + BEFORE, "restart_needed")
    replace(server)
    warned = server.wait_log(
        lambda line: line["event"] == "config_warning" and "restart the server to use the new value" in line["detail"]
    )
    server.wait_log(lambda line: line["event"] == "serving" and line["pid"] == warned["pid"])
    after = [position(server, "walter") for _ in range(20)]
    assert after == [(before[0], before[1] + number) for number in range(1, 21)]
    assert server.stop() == 0

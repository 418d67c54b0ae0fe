"""The process as a whole: how it starts, what it logs, how it ends."""

from __future__ import annotations

import http.client
import os
import signal
import sys
from collections.abc import Callable

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from app.server.worker import MAX_FRAME_SIZE
from tests.conftest import ServerFactory
from tests.support import asgi_app
from tests.support.fuzz.run import memory
from tests.support.local import wait_for
from tests.support.postgres import children
from tests.support.server import LogLine, Server

GUNICORN = (sys.executable, "-m", "gunicorn", "--config", "gunicorn.conf.py")


def assert_all_json(server: Server) -> None:
    """Fail unless everything that the server wrote is JSON lines of the expected shape."""
    assert server.unparsed == []
    assert server.stderr == []
    for line in server.log:
        assert list(line)[:5] == ["timestamp", "level", "logger", "event", "pid"]


def is_boot(line: LogLine) -> bool:
    """Tell a new worker's first line."""
    return bool(line["event"].startswith("Booting worker"))


def start(server_factory: ServerFactory, **env: str) -> Server:
    """Start the small application."""
    return server_factory(command=asgi_app.COMMAND, ready_path="/ok", env=env)


def test_a_stop_exits_with_0_and_every_line_is_json(server_factory: ServerFactory) -> None:
    """Server exits with 0 on SIGTERM, open connections or not, and every line is JSON."""
    server = start(server_factory)
    kept_alive = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    kept_alive.request("GET", "/ok")
    kept_alive.getresponse().read()
    with connect(f"{server.ws_url}/echo") as websocket:
        assert server.stop() == 0
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(timeout=10)
    kept_alive.close()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert_all_json(server)
    assert {"gunicorn.error", "uvicorn.error"} == {line["logger"] for line in server.log}


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["to the master", "to all, as Ctrl-C"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_quick_stop_ends_at_once_and_says_why(
    server_factory: ServerFactory, send: Callable[[int, int], None], number: signal.Signals
) -> None:
    """Server ends at once on SIGINT and SIGQUIT too, and tells its connections why."""
    server = start(server_factory)
    with connect(f"{server.ws_url}/echo") as websocket:
        send(server.pid, number)
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(timeout=5)
    assert server.wait(timeout=5) == 0
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert_all_json(server)
    assert "error" not in {line["level"] for line in server.log}


def test_a_hangup_replaces_the_workers(server_factory: ServerFactory) -> None:
    """Server replaces its workers on SIGHUP, and the master still writes JSON, once per line."""
    server = start(server_factory)
    server.send_signal(signal.SIGHUP)
    server.wait_log(lambda line: line["event"].startswith("Handling signal: hup"))
    first = server.wait_log(is_boot)
    server.wait_log(lambda line: is_boot(line) and line["pid"] != first["pid"])
    server.wait_log(lambda line: line["event"].startswith("Finished") and line["pid"] == first["pid"])
    assert server.stop() == 0
    assert_all_json(server)
    assert len([line for line in server.log if line["event"].startswith("Handling signal: hup")]) == 1


def test_a_traceback_is_one_line_without_secrets(server_factory: ServerFactory) -> None:
    """Server writes an exception of the application as one line, without the secret in it."""
    server = start(server_factory)
    assert httpx.get(f"{server.url}/boom").status_code == 500
    line = server.wait_log(lambda line: "exception" in line)
    server.stop()
    assert line["event"] == "Exception in ASGI application"
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("RuntimeError: cannot reach postgres://abide:***@db.internal/abide")
    assert_all_json(server)


def test_secrets_and_queries_are_not_logged(server_factory: ServerFactory) -> None:
    """Server masks secrets in what the application logs, and logs no query string."""
    server = start(server_factory)
    httpx.get(f"{server.url}/log?token=hunter2")
    with connect(f"{server.ws_url}/echo?token=hunter2"):
        pass
    line = server.wait_log(lambda line: line["event"] == "told")
    server.stop()
    assert (line["password"], line["header"], line["channel"]) == ("***", "Bearer ***", "news")
    assert "hunter2" not in server.text(last=1000)
    assert "/echo" not in server.text(last=1000)


def test_nothing_below_the_level_is_logged(server_factory: ServerFactory) -> None:
    """Server writes nothing below LOG_LEVEL, whoever logs it."""
    server = start(server_factory, LOG_LEVEL="error")
    httpx.get(f"{server.url}/log")
    httpx.get(f"{server.url}/boom")
    server.wait_log(lambda line: "exception" in line)
    server.stop()
    assert {line["level"] for line in server.log} == {"error"}


def test_answers_say_when_and_not_by_what(edge: Server) -> None:
    """Server says when it answered, and not what it runs on."""
    headers = httpx.get(f"{edge.url}/ok").headers
    assert "date" in headers
    assert "server" not in headers


def test_a_frame_over_the_largest_closes_with_1009(edge: Server) -> None:
    """Server takes a frame around the largest message uncompressed, and closes with 1009 on a larger one."""
    with connect(f"{edge.ws_url}/echo", max_size=None) as websocket:
        assert websocket.response is not None
        assert "sec-websocket-extensions" not in websocket.response.headers
        websocket.send("x" * MAX_FRAME_SIZE)
        assert len(websocket.recv(timeout=10)) == MAX_FRAME_SIZE
        websocket.send("x" * (MAX_FRAME_SIZE + 1))
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(timeout=10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


def test_memory_is_returned_after_a_burst(edge: Server) -> None:
    """Worker returns the memory that a burst took, though a few small objects of each MiB are still remembered."""
    (worker,) = children(edge.pid)
    before = memory(worker)
    most = float(httpx.get(f"{edge.url}/burst", timeout=30).text)
    assert most > before + 60
    wait_for(lambda: memory(worker) < before + (most - before) / 4, timeout=20)


@pytest.mark.parametrize("host", ["::", "[::]", "0.0.0.0", "localhost"])  # noqa: S104 — what users write
def test_the_server_listens_where_host_says(server_factory: ServerFactory, host: str) -> None:
    """Server listens where HOST says, and ``::`` takes IPv4 too."""
    server = server_factory(command=asgi_app.COMMAND, ready_path="/ok", env={"HOST": host})
    assert httpx.get(f"{server.url}/ok").status_code == 200


@pytest.mark.parametrize(
    ("channels", "env", "expected"),
    [
        ("channels: {news: {publish: sometimes}}", {}, "channels.yaml:1:28: channels.news.publish: "),
        ("channels: {news: {}}", {"PORT": "http"}, "PORT: must be a whole number"),
        ("channels: {news: {}}", {"WEB_CONCURRENCY": "2", "DATABASE_URL": ""}, "WEB_CONCURRENCY: 2 workers cannot"),
    ],
    ids=["file", "environment", "both together"],
)
def test_a_wrong_configuration_is_refused_before_listening(channels: str, env: dict[str, str], expected: str) -> None:
    """Server refuses a wrong configuration with 1 and lines on stderr, before it listens."""
    server = Server(command=GUNICORN, channels=channels, env=env)
    server.launch()
    assert server.wait() == 1
    assert len(server.stderr) == 1
    assert expected in server.stderr[0]
    assert server.log == []
    assert server.unparsed == []


def test_a_killed_worker_is_replaced_and_logged(server_factory: ServerFactory) -> None:
    """Master starts another worker when one is killed, and says so in JSON."""
    server = start(server_factory)
    booted = server.wait_log(is_boot)
    os.kill(booted["pid"], signal.SIGKILL)
    server.wait_log(lambda line: is_boot(line) and line["pid"] != booted["pid"])
    assert server.stop() == 0
    assert_all_json(server)

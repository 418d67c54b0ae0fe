"""What a person sees who starts the server at a terminal."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from tests.conftest import ServerFactory
from tests.support.processes import ROOT, free_port
from tests.support.terminal import Terminal

ABIDE = str(ROOT / "bin" / "abide")
CHANNELS = """\
channels:
  lebowski: {publish: anyone}
  events: {publish: anyone, client_publish: true}
"""
NOBODY = "postgres://me:hunter2@127.0.0.1:1/app"
"""A database that nobody serves."""


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a channels.yaml with two warnings."""
    path = tmp_path_factory.mktemp("terminal") / "channels.yaml"
    path.write_text(CHANNELS)
    return str(path)


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def terminal(channels: str, port: int) -> Iterator[Terminal]:
    """Start the server with `make run` at a terminal."""
    with Terminal(["make", "run"], {"PORT": str(port), "CHANNELS_CONFIG": channels}) as terminal:
        terminal.until("/docs")
        yield terminal


def test_a_start_shows_the_warnings_and_then_the_addresses(terminal: Terminal, port: int) -> None:
    """Start at a terminal shows each warning of the configuration in a line, then the addresses, and nothing else."""
    url = f"http://127.0.0.1:{port}"
    assert terminal.lines[:3] == [
        "warning: anyone may publish to 'lebowski'",
        "warning: anyone may publish to 'events'",
        f"console: {url}/ · API: {url}/docs",
    ]
    assert httpx.get(f"{url}/docs", timeout=10).status_code == 200


def test_a_request_is_one_line_that_a_person_can_read(terminal: Terminal, port: int) -> None:
    """Request is one line with its method, path, status, time and size; a WebSocket tells how it was closed."""
    url = f"127.0.0.1:{port}"
    httpx.post(f"http://{url}/push", json={"channel": "lebowski", "message": 1}, timeout=10)
    assert re.fullmatch(r"POST /push 200 [0-9.]+ ms [0-9]+ B", terminal.until("POST /push"))
    httpx.get(f"http://{url}/%1b[2J%7f", timeout=10)
    assert re.fullmatch(r"GET /\\x1b\[2J\\x7f 404 unknown_channel [0-9.]+ ms [0-9]+ B", terminal.until("GET /.x1b"))
    with connect(f"ws://{url}/lebowski") as socket:
        httpx.post(f"http://{url}/push/lebowski", json="abides", timeout=10)
        assert socket.recv(timeout=10) == '"abides"'
    assert re.fullmatch(
        r"WebSocket /lebowski closed with 1000 [0-9.]+ (ms|s) 1 message", terminal.until("WebSocket /lebowski")
    )


def test_a_reload_shows_what_has_changed(terminal: Terminal, channels: str) -> None:
    """Change of channels.yaml is shown in lines: what came, what went, which policy changed, or what is wrong."""
    before = Path(channels).read_text()
    try:
        Path(channels).write_text("channels: {lebowski: {publish: key}, extra: {subscribe: nobody}}\n")
        terminal.until("^  changed: channels.lebowski.publish: anyone -> key$")
        shown = terminal.lines
        begin = next(index for index, line in enumerate(shown) if line.startswith("config_applied (config "))
        assert shown[begin + 1 : begin + 3] == ["  added: extra", "  removed: events"]
        Path(channels).write_text("channels: {lebowski: {publish: kye}}\n")
        assert terminal.until("problems").startswith(f"  problems: {channels}:1:32: channels.lebowski.publish: write")
        assert terminal.until("^error: config_refused")
    finally:
        Path(channels).write_text(before)


def test_ctrl_c_ends_make_run_without_a_word(channels: str, port: int) -> None:
    """Ctrl-C under `make run` ends the server: neither make nor gunicorn nor Python says a word."""
    port = free_port()
    with Terminal(["make", "run"], {"PORT": str(port), "CHANNELS_CONFIG": channels}) as terminal:
        terminal.until("/docs")
        shown = len(terminal.lines)
        terminal.press_ctrl_c()
        terminal.wait()
        assert terminal.lines[shown:] == ["^C"]


def test_ctrl_c_during_the_start_is_quiet_too(channels: str) -> None:
    """Ctrl-C while the server still imports ends it with 0, and without an error."""
    with Terminal([ABIDE, "serve"], {"PORT": str(free_port()), "CHANNELS_CONFIG": channels}) as terminal:
        maps = Path(f"/proc/{terminal.process.pid}/maps")
        while "pydantic_core" not in maps.read_text():
            time.sleep(0.005)
        terminal.press_ctrl_c()
        assert terminal.wait() == 0
        assert terminal.lines[0] == "^C"
        assert not re.search("Traceback|rror|INT", terminal.raw)


def test_a_closed_terminal_ends_the_server(channels: str) -> None:
    """Server whose terminal is closed ends, rather than to hold its port where nobody sees it."""
    with Terminal([ABIDE, "serve"], {"PORT": str(free_port()), "CHANNELS_CONFIG": channels}) as terminal:
        terminal.until("/docs")
        terminal.close()
        terminal.wait()  # the code is Python's: it could not write its last words


def test_several_workers_say_everything_once(channels: str) -> None:
    """Server with two workers shows warnings and addresses once, at a terminal that knows only ASCII and no colours."""
    variables = {"PORT": str(free_port()), "CHANNELS_CONFIG": channels, "DATABASE_URL": NOBODY}
    variables |= {"NO_COLOR": "1", "PYTHONIOENCODING": "ascii"}
    Path(channels).write_text("backend: ${DATABASE_URL}\n" + CHANNELS)
    with Terminal([ABIDE, "serve", "--workers", "2"], variables) as terminal:
        terminal.until("/docs")
        said = terminal.until("not_listening")
        assert said.startswith("warning: not_listening: no connection to 127.0.0.1:1/app: Connection refused: nothing")
        terminal.press_ctrl_c()
        assert terminal.wait() == 0
    Path(channels).write_text(CHANNELS)
    kept = [line for line in terminal.lines if "not_listening" not in line and line not in ("^C", "")]
    assert len(kept) == 3
    assert re.fullmatch(r"console: http://.*/ .xb7 API: http://.*/docs", kept[2])
    assert "\x1b" not in terminal.raw
    assert "hunter2" not in terminal.raw


def test_lines_are_json_where_nobody_watches(server_factory: ServerFactory) -> None:
    """Lines are JSON objects where stdout is no terminal, with nothing between them."""
    server = server_factory(channels=CHANNELS, env={"LOG_FORMAT": ""})
    server.wait_log(lambda line: line["event"] == "Application startup complete.")
    assert server.stop() == 0
    assert (server.unparsed, server.stderr) == ([], [])
    events = [line["event"] for line in server.log]
    assert events.count("config_warning") == 2
    assert "serving" in events


@pytest.mark.parametrize(
    ("host", "taken", "variables"),
    [
        ("127.0.0.1", "127.0.0.1", {}),
        ("127.0.0.1", "127.0.0.1", {"WEB_CONCURRENCY": "2", "DATABASE_URL": NOBODY}),
        ("::", "::", {}),
        ("::", "0.0.0.0", {}),  # noqa: S104
    ],
)
def test_a_port_in_use_is_one_line_at_once(host: str, taken: str, variables: dict[str, str]) -> None:
    """Port in use is told in one line that names it and says what to do, and the exit code is 1."""
    with socket.create_server((taken, 0), family=socket.AF_INET6 if ":" in taken else socket.AF_INET) as holder:
        port = str(holder.getsockname()[1])
        with Terminal([ABIDE, "serve"], {"HOST": host, "PORT": port, **variables}) as terminal:
            assert terminal.wait() == 1
    address = f"[::]:{port}" if host == "::" else f"{host}:{port}"
    reason = "Address already in use: stop what listens there, or set another port"
    assert terminal.lines == [f"PORT: cannot listen on {address}: {reason}"]

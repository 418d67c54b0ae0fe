"""Starting and stopping the server as its users do."""

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.conftest import ServerFactory
from tests.support.server import Server

CHANNELS = "channels: {lebowski: {publish: anyone}}\n"


@pytest.mark.parametrize(
    ("channels", "env", "expected"),
    [
        ("channels:\n  lebowski: {subscribe: token}\n", {}, "channels.yaml:2:"),
        ("channels:\n  lebowski: {schema: a.json}\n", {}, "cannot be read"),
        ("backend: redis://localhost\ndefaults: {history: {size: 5}}\n" + CHANNELS, {}, "channels.yaml:2:"),
        (CHANNELS, {"WEB_CONCURRENCY": "2"}, "memory://"),
        (CHANNELS, {"PORT": "http"}, "PORT"),
    ],
)
def test_what_cannot_be_served_is_refused_at_start(channels: str, env: dict[str, str], expected: str) -> None:
    """Server that cannot do what the file asks for says so with its line, and ends with 1."""
    server = Server(channels=channels, env=env, cold=True)
    server.launch()
    assert server.wait() == 1
    assert expected in "\n".join(server.stderr)
    assert "Traceback" not in server.text()


def test_a_stop_closes_sockets_with_1012_and_ends_with_0(server_factory: ServerFactory) -> None:
    """Server asked to stop tells its subscribers to come back, and ends cleanly."""
    server = server_factory(channels=CHANNELS, cold=True)
    with connect(f"{server.ws_url}/lebowski") as subscriber:
        server.send_signal(15)  # type: ignore[arg-type]
        with pytest.raises(ConnectionClosed) as closed:
            subscriber.recv(timeout=10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert server.wait() == 0


def test_warnings_of_the_configuration_are_logged_at_start(server_factory: ServerFactory) -> None:
    """Server says at start what works but may not be meant."""
    server = server_factory(channels=CHANNELS, cold=True)
    line = server.wait_log(lambda line: line["event"] == "config_warning")
    assert "anyone may publish to 'lebowski'" in line["detail"]

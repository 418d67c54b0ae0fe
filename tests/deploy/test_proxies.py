"""The proxies of docs/deploy/proxies.md, from their files, before a real server."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator, Mapping

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.support.fronts import FRONTS, HOST, Front
from tests.support.programs import PATIENCE, Program, find_or_skip
from tests.support.server import Server

KEY = "key-of-the-proxies"
CHANNELS = """\
backend: memory://
auth: {keys: "${PUSH_KEYS}"}
origins: ["https://elsewhere.example"]
limits: {connections_per_address: 1}
channels:
  news: {publish: key, max_message_size: 1MiB}
"""


class Proxied:
    """One proxy, as its clients see it."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self.url = f"https://{HOST}:{front.port}"

    def curl(self, path: str, *arguments: str) -> list[str]:
        """Return the command that asks for a path."""
        resolve = f"{HOST}:{self._front.port}:127.0.0.1"
        certificate = str(self._front.certificate)
        options = ("--silent", "--show-error", "--max-time", str(PATIENCE))
        return [
            find_or_skip("curl"),
            *options,
            "--cacert",
            certificate,
            "--resolve",
            resolve,
            *arguments,
            self.url + path,
        ]

    def ask(self, path: str, *arguments: str) -> tuple[str, int]:
        """Return the version of HTTP and the status of an answer."""
        command = self.curl(path, "--output", "/dev/null", "--write-out", "%{http_version} %{http_code}", *arguments)
        version, status = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        return version, int(status)

    def subscribe(self, address: str = "127.0.0.1", headers: Mapping[str, str] | None = None) -> ClientConnection:
        """Open a WebSocket from an address of this machine."""
        way = socket.create_connection(("127.0.0.1", self._front.port), source_address=(address, 0))
        try:
            return connect(
                f"wss://{HOST}:{self._front.port}/news", sock=way, ssl=self._front.trust, additional_headers=headers
            )
        except BaseException:
            way.close()
            raise


@pytest.fixture(scope="module")
def abide() -> Iterator[Server]:
    with Server(channels=CHANNELS, env={"PUSH_KEYS": KEY}) as server:
        yield server


@pytest.fixture(scope="module", params=FRONTS)
def proxied(request: pytest.FixtureRequest, abide: Server) -> Iterator[Proxied]:
    with Front(request.param, abide.port) as front:
        yield Proxied(front)


def push(server: Server, data: object) -> None:
    answer = httpx.post(f"{server.url}/push/news", json=data, headers={"authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200


def test_a_page_comes_over_http_2(proxied: Proxied) -> None:
    """Page of the server comes over TLS and HTTP/2."""
    assert proxied.ask("/client.js") == ("2", 200)


def test_a_websocket_is_upgraded_through_the_proxy(proxied: Proxied, abide: Server) -> None:
    """WebSocket opens through the proxy, and gets what is pushed."""
    with proxied.subscribe() as subscriber:
        push(abide, "over a socket")
        assert subscriber.recv(timeout=PATIENCE) == '"over a socket"'


def test_an_event_is_not_held_back(proxied: Proxied, abide: Server) -> None:
    """Event of a stream comes while the stream goes on, however small it is."""
    command = proxied.curl("/news", "--no-buffer", "--header", "Accept: text/event-stream", "--http2")
    with Program(*command) as stream:
        assert stream.line() is not None  # the stream is open
        push(abide, "an event")
        stream.until('data: "an event"')


def test_a_large_push_passes_the_proxy(proxied: Proxied) -> None:
    """Push of some MiB, as an array, is passed on whole."""
    body = json.dumps([{"channel": "news", "message": "x" * 1_000_000}] * 3).encode()
    command = proxied.curl("/push", "--fail", "--data-binary", "@-", "--header", f"Authorization: Bearer {KEY}")
    command += ["--header", "Content-Type: application/json"]
    answer = subprocess.run(command, input=body, capture_output=True, check=True).stdout
    assert answer.count(b'"position"') == 3


def test_a_client_of_the_proxy_is_a_stranger(proxied: Proxied, abide: Server) -> None:
    """Client of a proxy on the same machine is no operator, though one who asks the server itself is."""
    assert httpx.get(f"{abide.url}/channels").status_code == 200
    assert proxied.ask("/channels")[1] == 401


def test_the_proxy_says_whose_request_it_is(proxied: Proxied) -> None:
    """Limits count the clients of a proxy by their own addresses, whatever a client says of itself."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(proxied.subscribe("127.0.0.2"))
        stack.enter_context(proxied.subscribe("127.0.0.3"))
        for headers in ({}, {"X-Forwarded-For": "192.0.2.1"}):
            with pytest.raises(InvalidStatus) as refused:
                proxied.subscribe("127.0.0.2", headers)
            assert refused.value.response.status_code == 429


def test_the_server_knows_its_own_pages_behind_the_proxy(proxied: Proxied) -> None:
    """Page of the proxy's own address may read a channel; one of another address may not."""
    history = "/news/history"
    assert proxied.ask(history, "--header", f"Origin: {proxied.url}")[1] == 200
    assert proxied.ask(history, "--header", "Origin: https://other.example")[1] == 403

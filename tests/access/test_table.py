"""Every policy, for every caller, over every transport: who is admitted, and how who is not is answered."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import ClassVar, NamedTuple

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.support.access_table import CALLERS, POLICIES, Verdict, markdown, verdict
from tests.support.processes import ROOT
from tests.support.server import SERVE, Server
from tests.support.tokens import SECRET, bearer, token
from tests.web.conftest import PLAIN

OWN = "auth0|65f'~+="
"""The parameter of every channel here: it is the subject of one caller's token."""

SESSION = "a-session-of-the-application"
KEY = "a-key-for-everything"
REFUSED = "Bearer is-unknown-to-everybody"


def family(policy: str) -> str:
    """Return the prefix of the channels with a policy."""
    return f"p{POLICIES.index(policy)}."


def channel(policy: str) -> str:
    return family(policy) + OWN


HERE = json.dumps([channel(policy) for policy in POLICIES])
ELSEWHERE = json.dumps([f"{channel(policy)}2" for policy in POLICIES] + ["*", "p*", "p0", f"{family('token')}**"])
CHANNELS = "".join(
    f'  "{family(policy)}{{id}}": {{publish: {policy}, subscribe: {policy}, client_publish: true}}\n'
    for policy in POLICIES
)
CREDENTIALS: dict[str, str | None] = {
    "nothing": None,
    "a credential that is not good": token("another-secret-0123456789-0123456789", sub=OWN, publish=json.loads(HERE)),
    "a session that only the application knows": SESSION,
    "a key": KEY,
    "a key that is limited to this channel": "a-key-for-this-channel",
    "a key that is limited to publishing here": "a-key-for-publishing",
    "a key that is limited to other channels": "a-key-for-others",
    "a token without grants": token(sub="somebody"),
    "a token with a grant of this channel": token(publish=json.loads(HERE), subscribe=json.loads(HERE)),
    "a token with a grant of the family": token(
        publish=[f"{family(policy)}*" for policy in POLICIES], subscribe=[f"{family(policy)}*" for policy in POLICIES]
    ),
    "a token with a grant to publish here": token(sub="somebody", publish=json.loads(HERE)),
    "a token with a grant to subscribe here": token(sub="somebody", subscribe=json.loads(HERE)),
    "a token with grants of other channels": token(publish=json.loads(ELSEWHERE), subscribe=json.loads(ELSEWHERE)),
    "a token whose claim is this channel's": token(sub=OWN),
}


def config(application: int) -> str:
    return f"""
backend: memory://
operators: key
auth:
  keys:
    - {KEY}
    - {{name: here, key: a-key-for-this-channel, publish: {HERE}, subscribe: {HERE}}}
    - {{name: publisher, key: a-key-for-publishing, publish: {HERE}}}
    - {{name: others, key: a-key-for-others, publish: {ELSEWHERE}, subscribe: {ELSEWHERE}}}
  tokens: {{secret: "{SECRET}"}}
  ask: {{url: "http://127.0.0.1:{application}/", forward: [authorization]}}
channels:
{CHANNELS}"""


class Application(http.server.BaseHTTPRequestHandler):
    """Admits whoever has its session, to everything."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together
    admitted: ClassVar[bytes] = b'{"sub": "of-the-session"}'

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        is_known = self.headers["authorization"] == f"Bearer {SESSION}"
        self.send_response(200 if is_known else 401)
        body = self.admitted if is_known else b"{}"
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def application() -> Iterator[int]:
    """Serve the application; yield its port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Application) as serving:
        serving.daemon_threads = True
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield serving.server_address[1]
        serving.shutdown()
        thread.join()


class Table(NamedTuple):
    """A server of all policies, and a client."""

    server: Server
    http: httpx.Client

    def push(self, path: str, content: object, credential: str | None) -> httpx.Response:
        return self.http.post(path, json=content, headers=bearer(credential) if credential else {})

    def get(self, path: str, credential: str | None, **headers: str) -> httpx.Response:
        return self.http.get(path, headers={**headers, **(bearer(credential) if credential else {})})

    def open(self, path: str, credential: str | None, *protocols: str) -> ClientConnection:
        """Open a WebSocket; raises InvalidStatus."""
        return connect(
            self.server.ws_url + path,
            additional_headers=bearer(credential) if credential else {},
            subprotocols=[Subprotocol(protocol) for protocol in protocols] or None,
            compression=None,
            open_timeout=30,
        )


@pytest.fixture(scope="module", params=[SERVE, PLAIN], ids=["handed over", "plain ASGI"])
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    with (
        application() as port,
        Server(channels=config(port), command=request.param) as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        yield Table(server, client)


Transport = Callable[[Table, str, "str | None"], int]
"""Does one thing with a channel; returns the status that it is answered with, 200 for admitted."""


def push_by_path(table: Table, name: str, credential: str | None) -> int:
    return table.push(f"/push/{name}", 1, credential).status_code


def push_by_envelope(table: Table, name: str, credential: str | None) -> int:
    return table.push("/push", {"channel": name, "message": 1}, credential).status_code


def push_a_large_body(table: Table, name: str, credential: str | None) -> int:
    return table.push(f"/push/{name}", "x" * 40_000, credential).status_code


def push_in_an_array(table: Table, name: str, credential: str | None) -> int:
    answer = table.push("/push", [{"channel": name, "message": 1}], credential)
    return int(answer.json()[0].get("status", 200)) if answer.status_code == 200 else answer.status_code


def history(table: Table, name: str, credential: str | None) -> int:
    return table.get(f"/{name}/history", credential).status_code


def long_poll(table: Table, name: str, credential: str | None) -> int:
    return table.get(f"/{name}/history?since=earliest&limit=1&wait=1", credential).status_code


def head_of_history(table: Table, name: str, credential: str | None) -> int:
    return table.http.head(f"/{name}/history", headers=bearer(credential) if credential else {}).status_code


def event_stream(table: Table, name: str, credential: str | None) -> int:
    headers = {"accept": "text/event-stream", **(bearer(credential) if credential else {})}
    with table.http.stream("GET", f"/{name}", headers=headers) as answer:
        return answer.status_code


def plain_socket(table: Table, name: str, credential: str | None) -> int:
    return _handshake(table, f"/{name}", credential)


def v1_socket(table: Table, name: str, credential: str | None) -> int:
    return _handshake(table, f"/{name}", credential, "abide.v1")


def socket_with_a_bearer_protocol(table: Table, name: str, credential: str | None) -> int:
    if credential == SESSION:  # the application gets Authorization alone
        return v1_socket(table, name, credential)
    try:
        protocols = ["abide.v1", *([f"bearer.{credential}"] if credential else [])]
        with table.open(f"/{name}", None, *protocols) as socket:
            assert socket.subprotocol == "abide.v1"
            return 200
    except InvalidStatus as refused:
        return refused.response.status_code


def _handshake(table: Table, path: str, credential: str | None, *protocols: str) -> int:
    try:
        with table.open(path, credential, *protocols):
            return 200
    except InvalidStatus as refused:
        return refused.response.status_code


def _answered(socket: ClientConnection, expected: str, **command: object) -> int:
    """Send a command; return 200 if it is answered by a text of the expected type, else the error's status."""
    socket.send(json.dumps(command))
    while (answer := json.loads(socket.recv(30)))["type"] not in {"error", expected}:
        pass
    return 200 if answer["type"] == expected else int(answer["status"])


def subscribe_on_ws(table: Table, name: str, credential: str | None) -> int:
    with table.open("/ws", credential, "abide.v1") as socket:
        status = _answered(socket, "subscribed", type="subscribe", channel=name)
        assert _answered(socket, "error", type="unsubscribe", channel="none") == 200, "the socket stays"
        return status


def publish_on_ws(table: Table, name: str, credential: str | None) -> int:
    with table.open("/ws", credential, "abide.v1") as socket:
        return _answered(socket, "published", type="publish", channel=name, data=1)


def publish_on_a_v1_socket(table: Table, name: str, credential: str | None) -> int:
    try:
        with table.open(f"/{name}", credential, "abide.v1") as socket:
            return _answered(socket, "published", type="publish", data=1)
    except InvalidStatus as refused:
        return -refused.response.status_code


def publish_on_a_plain_socket(table: Table, name: str, credential: str | None) -> int:
    try:
        with table.open(f"/{name}", credential) as socket:
            socket.send("1")
            with suppress(ConnectionClosed):
                socket.recv(30)
                return 200
            return (socket.close_code or 0) - 4000
    except InvalidStatus as refused:
        return -refused.response.status_code


PUBLISHING: list[Transport] = [push_by_path, push_by_envelope, push_a_large_body, push_in_an_array, publish_on_ws]
SUBSCRIBING: list[Transport] = [
    history, long_poll, head_of_history, event_stream, plain_socket, v1_socket, socket_with_a_bearer_protocol,
    subscribe_on_ws,
]  # fmt: skip
BOTH: list[Transport] = [publish_on_a_v1_socket, publish_on_a_plain_socket]


def differences(table: Table, transport: Transport, expected: Callable[[Verdict], int]) -> list[str]:
    """Return where a transport answers otherwise than the table says."""
    found = []
    for policy in POLICIES:
        for caller in CALLERS:
            status, answer = expected(verdict(caller, policy)), 0
            try:
                answer = transport(table, channel(policy), CREDENTIALS[caller])
            except InvalidStatus as refused:  # of /ws
                answer = refused.response.status_code
            if answer != status:
                found.append(f"{policy} for {caller}: {answer} instead of {status}")
    return found


@pytest.fixture(scope="module", autouse=True)
def stored(table: Table) -> None:
    """Store a message in each channel to which somebody may publish."""
    for policy in POLICIES:
        for credential in CREDENTIALS.values():
            if push_by_path(table, channel(policy), credential) == 200:
                break


@pytest.mark.parametrize("transport", PUBLISHING, ids=lambda transport: transport.__name__)
def test_whoever_publishes_is_answered_by_the_table(table: Table, transport: Transport) -> None:
    """Server answers each publisher as the table says, by whichever way the message comes."""
    assert differences(table, transport, lambda verdict: verdict.publish) == []


@pytest.mark.parametrize("transport", SUBSCRIBING, ids=lambda transport: transport.__name__)
def test_whoever_subscribes_is_answered_by_the_table(table: Table, transport: Transport) -> None:
    """Server answers each subscriber as the table says, by whichever way the messages go."""
    assert differences(table, transport, lambda verdict: verdict.subscribe) == []


@pytest.mark.parametrize("transport", BOTH, ids=lambda transport: transport.__name__)
def test_whoever_publishes_on_a_socket_may_subscribe_too(table: Table, transport: Transport) -> None:
    """Server admits to a channel's socket whoever may subscribe, and takes messages there from whoever may publish."""
    assert (
        differences(
            table, transport, lambda verdict: verdict.publish if verdict.subscribe == 200 else -verdict.subscribe
        )
        == []
    )


def test_the_page_shows_the_table() -> None:
    """Page on checks has the table that the other tests hold the server against."""
    page = (ROOT / "docs/access/checks.md").read_text()
    assert markdown() in page, f"put this into docs/access/checks.md:\n{markdown()}"

"""What callers send as credentials is shown nowhere: it is planted on each way in and searched for on each way out."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.support.server import SERVE, Server
from tests.support.tokens import bearer, signed, token
from tests.web.conftest import PLAIN

SECRET = "planted-secret-of-the-server-0123456789"
KEY = "planted-key-7f3a9c"
WRONG = "planted-wrong-key-5d1e"
CHANNELS = f"""
backend: memory://
operators: key
origins: ["https://app.example"]
auth:
  keys: [{KEY}, {{name: billing, key: planted-named-key-2b}}]
  tokens: {{secret: "{SECRET}", cookie: session, issuer: https://login.example/}}
channels:
  news: {{publish: [key, token], subscribe: [key, token], client_publish: true}}
"""


@pytest.fixture(scope="module", params=[SERVE, PLAIN], ids=["handed over", "plain ASGI"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(channels=CHANNELS, command=request.param, env={"LOG_LEVEL": "debug"}) as server:
        yield server


def open_socket(
    server: Server, path: str, headers: dict[str, str], *protocols: str, texts: tuple[str, ...] = ()
) -> str:
    """Open a WebSocket, send texts and return all that comes back."""
    found = ""
    try:
        with connect(
            server.ws_url + path,
            additional_headers=headers,
            subprotocols=[Subprotocol(protocol) for protocol in protocols] or None,
        ) as opened:
            with suppress(ConnectionClosed, TimeoutError):
                for text in texts:
                    opened.send(text)
                    found += str(opened.recv(1))
            opened.close()
            return found + (opened.close_reason or "") + str(opened.response and opened.response.headers)
    except InvalidStatus as refused:
        return str(refused.response.headers) + bytes(refused.response.body or b"").decode()


def test_no_credential_is_shown_anywhere(server: Server) -> None:
    """Server shows no key, token, ticket, cookie or secret in a log line, an answer, a metric or a document."""
    good = token(SECRET, sub="ada", iss="https://login.example/", publish=["news"], subscribe=["news"])
    bad = [token(SECRET, sub="ada"), signed({"exp": "planted"}, secret=SECRET), token("x" * 32), f"{good[:-4]}AAAA"]
    credentials = [KEY, WRONG, "planted-named-key-2b", good, *bad]
    shown = []
    with httpx.Client(base_url=server.url, timeout=20) as http:
        ticket = http.post("/ticket", headers=bearer(good)).json()["ticket"]
        tickets = [ticket, ticket, f"{ticket}0"]
        for credential in credentials:
            ways = [bearer(credential), {"authorization": f"Basic {credential}"}, {"cookie": f"session={credential}"}]
            for headers in (*ways, bearer(f"{credential}, {credential}")):
                shown.append(http.post("/push/news", json=1, headers=headers))
                shown.append(http.post("/push", content=b"{", headers=headers | {"content-type": "application/json"}))
                shown.append(http.get("/news/history", headers=headers))
                shown.append(http.get("/nothing-here", headers=headers))
                shown.append(http.get("/channels", headers=headers))
                shown.append(http.post("/revoke", content=b"{", headers=headers))
                shown.append(http.post("/ticket", headers=headers | {"origin": "https://evil.example"}))
            shown.append(
                http.get("/news/history", headers=[("authorization", f"Bearer {credential}"), *bearer("x").items()])
            )
            for parameter in ("token", "access_token", "ticket", "wait", "since", "heartbeat"):
                http.get(f"/news/history?{parameter}={credential}")
        for one in tickets:
            shown.append(http.get(f"/news/history?ticket={one}"))
            shown.append(http.get(f"/channels?ticket={one}"))
        answers = "".join(str(answer.headers) + answer.text for answer in shown)
        texts = [json.dumps({"type": "token", "token": one}) for one in credentials]
        for credential in credentials:
            for text in (*texts, json.dumps({"type": "token", "token": [good]}), f'{{"token": "{credential}"'):
                answers += open_socket(server, "/ws", bearer(good), "abide.v1", texts=(text,))
            answers += open_socket(server, "/news", {}, "abide.v1", f"bearer.{credential}")
            answers += open_socket(server, "/news", {"cookie": f"session={credential}"})
            answers += open_socket(server, f"/news?ticket={ticket}", {})
        for broken in (b"GET /news HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\0\r\n\r\n", b"%b\r\n\r\n"):
            for credential in credentials:
                with socket.create_connection(("127.0.0.1", server.port), timeout=5) as wire:
                    wire.sendall(broken % credential.encode())
                    answers += wire.recv(65536).decode("latin-1")
        for path in (
            "/metrics",
            "/channels",
            "/console/overview",
            "/openapi.json",
            "/asyncapi.json",
            "/health/ready",
            "/docs",
            "/",
            "/client.js",
        ):
            answers += http.get(path, headers=bearer(KEY)).text
    logged = server.text(last=10**9)
    planted = [SECRET, *credentials, ticket, *(one.split(".")[2] for one in (good, *bad)), ticket.split(".")[0]]
    assert [(one, answers[max(0, answers.find(one) - 200) :][:300]) for one in planted if one in answers] == []
    assert [
        (one, next(line for line in logged.splitlines() if one in line)[:300]) for one in planted if one in logged
    ] == []

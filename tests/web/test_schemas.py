"""Channels with a schema, on a real server: every way of publishing, and changes of the schema's file."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_server
from typing import Any

import httpx
import jsonschema_rs
import openapi_spec_validator
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.support.metrics import scrape
from tests.support.server import Server
from tests.web.documents.test_documents import ASYNCAPI_SCHEMA, find, references

CHANNELS = """
backend: memory://
channels:
  orders: {publish: anyone, client_publish: true, schema: schemas/order.json, max_message_size: 1MiB}
  "order.{id}": {publish: anyone, schema: schemas/order.json}
  old: {publish: anyone, schema: old/order.json}
  free: {publish: anyone}
"""
ORDER: dict[str, Any] = {
    "$id": "https://a.example/order",
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"$ref": "#/$defs/id"},
        "note": {"type": "string"},
        "discriminator": True,
        "$ref": {"const": {"$ref": "#/a"}},
    },
    "discriminator": {"propertyName": "note", "mapping": {"a": "#/$defs/id"}},
    "$defs": {"id": {"type": "integer"}},
}
GOOD, BAD = {"id": 1}, {"id": "one"}
DETAIL = "'/id' does not fit the schema of channel 'orders': it is not of type \"integer\""


@contextmanager
def serving(channels: str = CHANNELS, order: object = ORDER) -> Iterator[Server]:
    """Run a server of these channels, with the schema file beside its channels.yaml."""
    server = Server(channels=channels)
    for path, document in (("schemas/order.json", order), ("old/order.json", True)):
        write(server, path, json.dumps(document))
    with server:
        yield server


def write(server: Server, path: str, text: str) -> Path:
    """Write a file beside channels.yaml."""
    file = server.channels_path.parent / path
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def push(server: Server, message: object, channel: str = "orders") -> httpx.Response:
    return httpx.post(f"{server.url}/push/{channel}", json=message, timeout=20)


def assert_misfit(answer: dict[str, Any], pointer: str) -> None:
    """Hold that this is the problem of a message that does not fit."""
    assert (answer["status"], answer["code"], answer["pointer"]) == (422, "schema_mismatch", pointer)
    assert answer["type"] == "urn:abide:problem:schema_mismatch"
    assert answer["detail"].startswith(f"{pointer!r} does not fit" if pointer else "the message does not fit")


def test_a_push_that_does_not_fit_is_422_and_points_at_it(server: Server) -> None:
    """Push to a channel with a schema is stored if it fits, byte for byte, and otherwise told where it does not."""
    text = b'{ "id":1.0,\n"note" : "\\u0061" }'
    stored = httpx.post(f"{server.url}/push/orders", content=text, headers={"content-type": "application/json"})
    assert stored.status_code == 200
    refused = push(server, BAD)
    assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")
    assert_misfit(refused.json(), "/id")
    assert refused.json()["detail"] == DETAIL
    assert_misfit(push(server, [], "order.7").json(), "")
    text_headers = {"content-type": "text/plain"}
    assert_misfit(httpx.post(f"{server.url}/push/orders", content="text", headers=text_headers).json(), "")
    history = httpx.get(f"{server.url}/orders/history").content
    assert text in history
    assert b'"one"' not in history
    assert push(server, BAD, "free").status_code == 200
    assert "pointer" not in push(server, BAD, "unknown").json()


def test_an_envelope_that_does_not_fit_is_422(server: Server) -> None:
    """Push whose body names the channel is checked like one whose path does."""
    refused = httpx.post(f"{server.url}/push", json={"channel": "orders", "message": BAD})
    assert refused.status_code == 422
    assert_misfit(refused.json(), "/id")


def test_each_item_of_an_array_is_judged_by_itself(server: Server) -> None:
    """Array is answered item by item: those that fit are stored, large ones too, and the others are told where."""
    before = push(server, GOOD, "order.array").json()["offset"]
    large = "x" * 100_000
    messages = [GOOD, BAD, GOOD | {"note": large}, {"id": large}, {}, GOOD]
    channels = ["order.array", "order.array", "orders", "orders", "order.array", "order.array"]
    items = [{"channel": channel, "message": message} for channel, message in zip(channels, messages, strict=True)]
    results = httpx.post(f"{server.url}/push", json=items).json()
    assert [result.get("status", 200) for result in results] == [200, 422, 200, 422, 422, 200]
    for result, pointer in ((results[1], "/id"), (results[3], "/id"), (results[4], "")):
        assert_misfit(result, pointer)
    assert results[5]["offset"] == before + 2


def test_a_large_message_is_judged_as_a_small_one_is(server: Server) -> None:
    """Message of nearly a mebibyte is checked too, over HTTP and over a socket."""
    large = {"note": "x" * 1_000_000}
    assert push(server, GOOD | large).status_code == 200
    assert_misfit(push(server, BAD | large).json(), "/id")
    with connect(f"{server.ws_url}/orders", subprotocols=["abide.v1"], max_size=None) as socket:  # type: ignore[list-item]
        socket.recv(timeout=10)
        assert say(socket, type="publish", id=1, data=large)["pointer"] == ""


def say(socket: ClientConnection, **members: object) -> dict[str, Any]:
    """Send a frame and return the next one."""
    socket.send(json.dumps(members))
    answer: dict[str, Any] = json.loads(socket.recv(timeout=20))
    return answer


def test_a_frame_that_does_not_fit_is_an_error_and_the_socket_stays(server: Server) -> None:
    """Error on a socket of abide.v1 has the status and the pointer, and the next publish is carried out."""
    with connect(f"{server.ws_url}/ws", subprotocols=["abide.v1"]) as socket:  # type: ignore[list-item]
        refused = say(socket, type="publish", id="a", channel="orders", data=BAD)
        assert refused == {
            "type": "error",
            "id": "a",
            "channel": "orders",
            "code": "schema_mismatch",
            "status": 422,
            "message": DETAIL,
            "pointer": "/id",
        }
        assert say(socket, type="publish", id="b", channel="orders", data=GOOD)["type"] == "published"
        assert "pointer" not in say(socket, type="publish", id="c", channel="free", data=GOOD)


def test_a_text_on_a_plain_socket_that_does_not_fit_closes_it(server: Server) -> None:
    """Plain socket has no frame for an error: it closes with a code of its own, and the reason says where."""
    with connect(f"{server.ws_url}/orders") as socket:
        socket.send(json.dumps(GOOD))
        assert json.loads(socket.recv(timeout=10)) == GOOD
        socket.send(json.dumps(BAD))
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=10)
        assert (socket.close_code, socket.close_reason) == (4422, DETAIL)


def test_refused_messages_are_counted_by_their_code(server: Server) -> None:
    """Metrics count a push that does not fit among the refusals."""
    name = 'abide_push_refused_total{code="schema_mismatch"}'
    before = scrape(server.url).get(name, 0)
    push(server, BAD)
    assert scrape(server.url)[name] == before + 1


@pytest.mark.parametrize("path", ["/openapi.json", "/asyncapi.json"])
def test_both_documents_have_the_schemas(server: Server, path: str) -> None:
    """Documents have the schema of each file, with references that lead somewhere, and are valid."""
    document = httpx.get(f"{server.url}{path}").json()
    if path == "/openapi.json":
        openapi_spec_validator.validate(document)
        body = document["paths"]["/push/orders"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        family = document["paths"]["/push/order.{id}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        free = document["paths"]["/push/free"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert "422" in document["paths"]["/push/orders"]["post"]["responses"]
        assert "$ref" not in free
    else:
        jsonschema_rs.validate(ASYNCAPI_SCHEMA, document)
        messages = document["channels"]["orders"]["messages"]
        body = messages["plain"]["payload"]
        family = document["channels"]["order.{id}"]["messages"]["message"]["payload"]["properties"]["data"]
        assert messages["publish"]["payload"]["properties"]["data"] == body
        assert set(document["channels"]["free"]["messages"]["plain"]) == {"$ref"}
    assert body == family == {"$ref": "#/components/schemas/message-order"}
    embedded = find(document, body["$ref"])
    assert embedded["properties"]["id"] == {"$ref": "#/components/schemas/message-order/$defs/id"}
    assert embedded["properties"]["$ref"] == ORDER["properties"]["$ref"]
    assert "discriminator" in embedded["properties"]
    assert document["components"]["schemas"]["message-order-2"] == {}
    for reference in references({key: value for key, value in embedded["properties"].items() if key == "id"}):
        find(document, reference)


def test_a_changed_schema_is_in_force_without_a_restart() -> None:
    """Server follows the schema file: a new one is in force, a broken or missing one is refused with its key's line."""
    with serving() as server:
        write(server, "schemas/order.json", json.dumps(ORDER | {"required": ["id", "note"]}))
        applied = server.wait_log(lambda line: line["event"] == "config_applied")
        assert len(applied["changed"]) == 2  # the channel and the family
        assert all(".schema: schemas/order.json (" in changed for changed in applied["changed"])
        assert_misfit(push(server, GOOD).json(), "")
        file = write(server, "schemas/order.json", '{"type": "objec')
        refused = server.wait_log(lambda line: line["event"] == "config_refused")
        assert f'{server.channels_path}:4:59: channels.orders.schema: "schemas/order.json" cannot be used' in str(
            refused
        )
        assert_misfit(push(server, GOOD).json(), "")
        assert httpx.get(f"{server.url}/health/ready").json()["config"]["error"].startswith(str(server.channels_path))
        file.unlink()
        server.wait_log(refusing("No such file"))
        assert_misfit(push(server, GOOD).json(), "")
        write(server, "schemas/order.json", json.dumps(ORDER))
        wait_for_config(server, applied["config"])
        assert push(server, GOOD).status_code == 200


def test_a_worker_that_starts_while_the_schema_is_broken_has_the_last_good_one() -> None:
    """Worker that takes over while the schema file is broken serves the schema that was in force."""
    with serving() as server:
        first = server.wait_log(lambda line: line["event"] == "serving")
        write(server, "schemas/order.json", "{")
        server.wait_log(lambda line: line["event"] == "config_refused")
        os.kill(first["pid"], signal.SIGKILL)
        again = server.wait_log(lambda line: line["event"] == "serving" and line["pid"] != first["pid"])
        assert again["config"] == first["config"]
        assert_misfit(push(server, BAD).json(), "/id")
        assert push(server, GOOD).status_code == 200


def test_a_server_does_not_start_with_a_schema_that_needs_another_document() -> None:
    """Server refuses to start where a schema refers to an address, and asks nobody for it."""
    server = Server(channels=CHANNELS)
    write(server, "old/order.json", "true")
    with create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0)
        address = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/order.json"
        write(server, "schemas/order.json", json.dumps({"$ref": address}))
        server.launch()
        assert server.wait() != 0
        with pytest.raises(BlockingIOError):
            elsewhere.accept()
    assert f':4:59: channels.orders.schema: "schemas/order.json" refers to {address!r}' in server.text()


def refusing(reason: str) -> Callable[[dict[str, Any]], bool]:
    return lambda line: line["event"] == "config_refused" and reason in str(line["problems"])


def wait_for_config(server: Server, before: str) -> None:
    """Return when another config is in force."""
    server.wait_log(lambda line: line["event"] == "config_applied" and line["config"] != before)

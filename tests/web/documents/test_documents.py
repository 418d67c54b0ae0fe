"""The OpenAPI and the AsyncAPI document: valid, whole, and true of what the server does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import httpx
import jsonschema_rs
import openapi_spec_validator
import pytest
import yaml
from websockets.sync.client import ClientConnection, connect

from app.wire.close_codes import NEVER_SENT, CloseCode
from tests.support.server import Server
from tests.web.conftest import CHANNELS, KEY

ASYNCAPI_SCHEMA = json.loads((Path(__file__).parents[2] / "support/asyncapi/asyncapi-3.0.0.json").read_text())
DECLARED: dict[str, dict[str, Any]] = yaml.safe_load(CHANNELS)["channels"]

Document = dict[str, Any]


@pytest.fixture
def openapi(http: httpx.Client) -> Document:
    document: Document = http.get("/openapi.json", headers=KEY).json()
    return document


@pytest.fixture
def asyncapi(http: httpx.Client) -> Document:
    document: Document = http.get("/asyncapi.json", headers=KEY).json()
    return document


def find(document: Document, reference: str) -> Any:  # noqa: ANN401 — JSON
    """Return what a reference within the document refers to; raise KeyError where there is nothing."""
    node: Any = document
    for part in unquote(reference.removeprefix("#/")).split("/"):
        node = node[part]
    return node


def references(node: object) -> Iterator[str]:
    """Yield every ``$ref`` below."""
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def judge(document: Document, schema: dict[str, Any], instance: object) -> None:
    """Raise if the instance is not as the schema, which may refer into the document, says."""
    components = json.loads(json.dumps(document["components"]))
    jsonschema_rs.validate({**schema, "components": components}, instance)


def test_openapi_is_valid_by_its_specification(openapi: Document) -> None:
    """OpenAPI document is one, by the validator of its specification."""
    openapi_spec_validator.validate(openapi)


def test_asyncapi_is_valid_by_its_specification(asyncapi: Document) -> None:
    """AsyncAPI document is one, by the JSON Schema of its specification."""
    jsonschema_rs.validate(ASYNCAPI_SCHEMA, asyncapi)
    assert asyncapi["asyncapi"] == "3.0.0"


@pytest.mark.parametrize("path", ["/openapi.json", "/asyncapi.json"])
def test_all_references_lead_to_what_documents_contain(http: httpx.Client, path: str) -> None:
    """Both documents refer only to what they contain, by references that are URIs."""
    document = http.get(path, headers=KEY).json()
    found = set(references(document))
    assert found
    for reference in found:
        assert re.fullmatch(r"#/[A-Za-z0-9_.~:%/-]+", reference)
        find(document, reference)


def test_openapi_shows_every_channel(openapi: Document) -> None:
    """OpenAPI document shows each declared channel by name: its push, its stream and its history."""
    paths = openapi["paths"]
    for name in DECLARED:
        assert f"`/{name}`" in paths[f"/push/{name}"]["post"]["description"]
        assert "text/event-stream" in paths[f"/{name}"]["get"]["description"]
        assert paths[f"/{name}/history"]["get"]["parameters"]
    assert {"/push", "/channels", "/health/live", "/health/ready"} <= paths.keys()


def test_openapi_leads_to_the_asyncapi_document(http: httpx.Client, openapi: Document) -> None:
    """OpenAPI document, and so its page, leads to the AsyncAPI document."""
    assert "openapi.json" in http.get("/docs", headers=KEY).text
    (link,) = re.findall(r"\]\((.+?)\)", openapi["info"]["description"])
    assert http.get(httpx.URL("/docs").join(link), headers=KEY).json()["asyncapi"]


def test_openapi_tells_similar_names_apart(openapi: Document) -> None:
    """OpenAPI document has each operation's id once, however alike the channels' names are."""
    operations = [
        operation["operationId"]
        for path in openapi["paths"].values()
        for method, operation in path.items()
        if method != "parameters"
    ]
    assert len(set(operations)) == len(operations)


def test_openapi_says_where_keys_are_needed(http: httpx.Client, openapi: Document) -> None:
    """OpenAPI document asks for a key exactly where the server answers 401 without one."""
    asking = {
        (method, path)
        for path, item in openapi["paths"].items()
        for method, operation in item.items()
        if method != "parameters" and operation.get("security") == [{"key": []}]
    }
    operators = {("get", "/channels"), ("get", "/metrics"), ("get", "/console/overview")}
    assert asking == {("post", "/push/listen"), *operators, ("post", "/revoke"), ("post", "/disconnect")}
    for method, path in asking:
        assert http.request(method.upper(), path, json={}).status_code == 401


def test_asyncapi_shows_every_channel(asyncapi: Document) -> None:
    """AsyncAPI document shows each declared channel with its address, and the socket for any number of them."""
    addresses = {name: channel["address"] for name, channel in asyncapi["channels"].items()}
    assert addresses == {name: f"/{name}" for name in (*DECLARED, "ws")}


def test_asyncapi_declares_the_parameters_of_its_addresses(asyncapi: Document) -> None:
    """AsyncAPI document declares the parameters that addresses have, and no others."""
    families = 0
    for channel in asyncapi["channels"].values():
        parameters = re.findall(r"\{(.+?)\}", channel["address"])
        assert parameters == list(channel.get("parameters", ()))
        families += bool(parameters)
    assert families == 2


def test_asyncapi_operations_name_messages_of_their_channel(asyncapi: Document) -> None:
    """AsyncAPI document's operations name messages of their own channel, and so do the answers."""
    for operation in asyncapi["operations"].values():
        for exchange in filter(None, (operation, operation.get("reply"))):
            channel = exchange["channel"]["$ref"]
            assert find(asyncapi, channel) in asyncapi["channels"].values()
            assert exchange["messages"]
            assert all(message["$ref"].startswith(f"{channel}/messages/") for message in exchange["messages"])


def test_asyncapi_lists_no_message_without_an_operation(asyncapi: Document) -> None:
    """AsyncAPI document lists no message of a channel that none of its operations has."""
    exchanged = set(references(asyncapi["operations"]))
    for name, channel in asyncapi["channels"].items():
        for message in channel["messages"]:
            assert f"#/channels/{quote(name)}/messages/{message}" in exchanged


def test_asyncapi_receives_where_policies_let_it(asyncapi: Document) -> None:
    """AsyncAPI document sends on every channel, and receives where the policy lets subscribers publish."""
    channels: dict[str, set[str]] = {}
    for operation in asyncapi["operations"].values():
        channels.setdefault(operation["action"], set()).add(unquote(operation["channel"]["$ref"].split("/")[-1]))
    assert channels["send"] == {*DECLARED, "ws"}
    assert channels["receive"] == {"talk", "desk", "small", "wide", "ws"}


def test_asyncapi_names_every_close_code(asyncapi: Document) -> None:
    """AsyncAPI document names every code that the server closes with."""
    named = set(re.findall(r"\b\d{4}\b", asyncapi["info"]["description"]))
    assert {str(code.value) for code in CloseCode} - named == {str(code.value) for code in NEVER_SENT}


def frames(socket: ClientConnection, asyncapi: Document) -> Iterator[dict[str, Any]]:
    """Yield what the server sends, judged by the document's message of that type; all of it must be named there."""
    while True:
        frame = json.loads(socket.recv(timeout=5))
        payload = asyncapi["components"]["messages"][frame["type"]]["payload"]
        judge(asyncapi, payload, frame)
        assert frame.keys() <= payload["properties"].keys()
        yield frame


def send(socket: ClientConnection, asyncapi: Document, frame: dict[str, Any]) -> None:
    """Send what the document allows."""
    judge(asyncapi, asyncapi["components"]["messages"][frame["type"]]["payload"], frame)
    socket.send(json.dumps(frame))


def test_asyncapi_describes_the_frames(edge: Server, asyncapi: Document) -> None:
    """AsyncAPI document describes every frame that a conversation on /ws is made of, both ways."""
    with connect(f"{edge.ws_url}/ws", subprotocols=["abide.v1"]) as socket:  # type: ignore[list-item]
        received = frames(socket, asyncapi)
        send(socket, asyncapi, {"type": "subscribe", "id": 1, "channel": "talk", "since": "old:1", "last": 0})
        assert next(received)["type"] == "subscribed"
        assert next(received)["reason"] == "epoch"
        send(socket, asyncapi, {"type": "subscribe", "channel": "nothing"})
        assert next(frame for frame in received if frame["type"] != "message")["code"] == "unknown_channel"
        send(socket, asyncapi, {"type": "publish", "id": "a", "channel": "talk", "data": ["x"], "key": "documents"})
        told = {frame["type"] for frame in (next(received), next(received))}
        assert told == {"message", "published"}
        send(socket, asyncapi, {"type": "unsubscribe", "id": 2, "channel": "talk"})
        assert next(received)["code"] == CloseCode.NORMAL


def test_asyncapi_allows_no_more_than_the_server(edge: Server, asyncapi: Document) -> None:
    """AsyncAPI document refuses the members that the server refuses."""
    with connect(f"{edge.ws_url}/ws", subprotocols=["abide.v1"]) as socket:  # type: ignore[list-item]
        received = frames(socket, asyncapi)
        for kind in ("publish", "subscribe", "unsubscribe"):
            frame = {"type": kind, "id": 1, "channel": "talk", "data": 1, "other": 1}
            with pytest.raises(jsonschema_rs.ValidationError):
                send(socket, asyncapi, frame)
            socket.send(json.dumps(frame))
            assert next(received)["code"] == "malformed"


def test_openapi_describes_the_answers(http: httpx.Client, openapi: Document) -> None:
    """OpenAPI document describes what push, history and a refusal answer with."""
    schemas = openapi["components"]["schemas"]
    pushed = http.post("/push/lebowski", json="described")
    judge(openapi, schemas["Stored"], pushed.json())
    judge(openapi, schemas["History"], http.get("/lebowski/history").json())
    judge(openapi, schemas["Problem"], http.get("/lebowski/history?limit=x").json())
    judge(openapi, schemas["ChannelList"], http.get("/channels", headers=KEY).json())
    enveloped = openapi["paths"]["/push"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    judge(openapi, enveloped, http.post("/push", json={"channel": "lebowski", "message": 1}).json())
    judge(
        openapi, enveloped, http.post("/push", json=[{"channel": c, "message": 1} for c in ("lebowski", "no")]).json()
    )


@pytest.mark.parametrize(
    ("parameter", "good", "bad"),
    [("Since", "earliest", "latest"), ("Limit", 1000, 1001), ("Wait", 0, 61), ("Last", 10**9, 10**9 + 1)],
)
def test_openapi_describes_the_limits(
    http: httpx.Client, openapi: Document, parameter: str, good: str | int, bad: str | int
) -> None:
    """OpenAPI document allows of a parameter what the server takes, and refuses what it refuses."""
    described = openapi["components"]["parameters"][parameter]
    judge(openapi, described["schema"], good)
    with pytest.raises(jsonschema_rs.ValidationError):
        judge(openapi, described["schema"], bad)
    path, accept = ("/lebowski", "text/event-stream") if parameter == "Last" else ("/lebowski/history", "*/*")
    for value, status in ((good, 200), (bad, 400)):
        with http.stream("GET", path, params={described["name"]: value}, headers={"accept": accept}) as answer:
            assert answer.status_code == status


@pytest.mark.parametrize("path", ["/openapi.json", "/asyncapi.json"])
def test_documents_answer_head_as_json_too(http: httpx.Client, path: str) -> None:
    """Both documents are JSON, and say so to HEAD too."""
    assert http.head(path, headers=KEY).headers["content-type"] == "application/json"
    assert http.head(path, headers=KEY).status_code == 200

"""The ``abide.v1`` subprotocol: positions, gaps, many channels on one socket."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.support.server import Server


class Speaker:
    """A client of ``abide.v1``."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def say(self, **members: object) -> None:
        self.socket.send(json.dumps(members))

    def hear(self) -> dict[str, Any]:
        heard: dict[str, Any] = json.loads(self.socket.recv(timeout=5))
        return heard

    def close_code(self) -> int:
        with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012 — whatever comes before the close
            while True:
                self.socket.recv(timeout=5)
        assert closed.value.rcvd is not None
        return closed.value.rcvd.code


@contextmanager
def speak(edge: Server, path: str) -> Iterator[Speaker]:
    with connect(f"{edge.ws_url}{path}", subprotocols=[Subprotocol("abide.v1")]) as socket:
        assert socket.subprotocol == "abide.v1"
        yield Speaker(socket)


def push(http: httpx.Client, channel: str, *messages: object) -> list[str]:
    return [http.post(f"/push/{channel}", json=message).json()["position"] for message in messages]


@pytest.mark.parametrize(("path", "then"), [("/ws", "error"), ("/chat.v1h", "subscribed")])
def test_a_session_that_asks_for_heartbeats_begins_with_one(edge: Server, path: str, then: str) -> None:
    """Session says at its beginning within how many seconds the next heartbeat comes; without being asked, nothing."""
    with speak(edge, f"{path}?heartbeat=true") as speaker:
        assert speaker.hear() == {"type": "heartbeat", "seconds": 20}
        speaker.say()
        assert speaker.hear()["type"] == then
    with speak(edge, f"{path}?heartbeat=false") as speaker:
        speaker.say()
        assert speaker.hear()["type"] == then


@pytest.mark.parametrize(("path", "said"), [("/chat.v1i?heartbeat=true", "abide.v1"), ("/ws?heartbeat=1", "heartbeat")])
def test_heartbeats_are_for_sessions(edge: Server, path: str, said: str) -> None:
    """Plain socket that asks for heartbeats is refused, and so is a word that is neither yes nor no."""
    protocols = [Subprotocol("abide.v1")] if path.startswith("/ws") else None
    with pytest.raises(InvalidStatus) as refused, connect(f"{edge.ws_url}{path}", subprotocols=protocols):
        pass
    assert refused.value.response.status_code == 400
    assert said in refused.value.response.body.decode()


def test_a_subscription_is_announced_and_messages_carry_their_positions(edge: Server, http: httpx.Client) -> None:
    """Session begins with where it stands, and each message says its channel, position and time."""
    with speak(edge, "/chat.v1a") as speaker:
        began = speaker.hear()
        epoch = began["position"].partition(":")[0]
        assert began == {"type": "subscribed", "channel": "chat.v1a", "position": f"{epoch}:0", "resumed": False}
        (position,) = push(http, "chat.v1a", {"a": 1})
        message = speaker.hear()
        assert message.pop("time") > 1_600_000_000_000
        assert message == {"type": "message", "channel": "chat.v1a", "position": position, "data": {"a": 1}}
        assert position == f"{epoch}:1"


def test_a_session_resumes_after_its_position(edge: Server, http: httpx.Client) -> None:
    """Session with a position gets every later message once, and is told that nothing is missing."""
    positions = push(http, "chat.v1b", 1, 2, 3)
    with speak(edge, f"/chat.v1b?since={positions[0]}") as speaker:
        began = speaker.hear()
        assert (began["resumed"], began["position"]) == (True, positions[0])
        assert [speaker.hear()["data"] for _ in range(2)] == [2, 3]
        push(http, "chat.v1b", 4)
        assert speaker.hear()["data"] == 4


@pytest.mark.parametrize(
    ("query", "expected"), [("last=2", [2, 3]), ("last=99", [1, 2, 3]), ("since=earliest", [1, 2, 3])]
)
def test_a_session_may_ask_for_what_was(edge: Server, http: httpx.Client, query: str, expected: list[int]) -> None:
    """Session gets the last messages before the head, or all that is held."""
    if not http.get("/chat.v1c/history").json()["messages"]:
        push(http, "chat.v1c", 1, 2, 3)
    with speak(edge, f"/chat.v1c?{query}") as speaker:
        assert speaker.hear()["resumed"] is False
        assert [speaker.hear()["data"] for _ in expected] == expected


@pytest.mark.parametrize(("offset", "reason", "following"), [(1, "expired", 3), (99, "ahead", 13)])
def test_a_gap_is_said_and_messages_follow(
    edge: Server, http: httpx.Client, offset: int, reason: str, following: int
) -> None:
    """Session that asks for what is not held is told right after its beginning."""
    if not http.get("/short/history").json()["messages"]:
        push(http, "short", *range(1, 13))
    epoch = http.get("/short/history").json()["epoch"]
    with speak(edge, f"/short?since={epoch}:{offset}") as speaker:
        assert speaker.hear()["resumed"] is False
        assert speaker.hear() == {
            "type": "gap",
            "channel": "short",
            "after": f"{epoch}:{offset}",
            "next": f"{epoch}:{following}",
            "reason": reason,
        }


def test_a_position_of_another_epoch_is_a_gap(edge: Server, http: httpx.Client) -> None:
    """Session whose position is of another life of the log is told, and gets what this one holds."""
    push(http, "chat.v1e", 1)
    with speak(edge, "/chat.v1e?since=old:7") as speaker:
        speaker.hear()
        gap = speaker.hear()
        assert (gap["after"], gap["reason"]) == ("old:7", "epoch")
        assert speaker.hear()["position"] == gap["next"]


def test_a_plain_socket_resumes_but_closes_at_a_gap(edge: Server, http: httpx.Client) -> None:
    """Plain socket gets what comes after its position; where something is missing it closes with 4410."""
    positions = push(http, "chat.v1p", 1, 2, 3)
    with connect(f"{edge.ws_url}/chat.v1p?since={positions[1]}") as socket:
        assert socket.recv(timeout=5) == "3"
    with connect(f"{edge.ws_url}/chat.v1p?since=old:1") as socket:
        assert Speaker(socket).close_code() == 4410


def test_publishing_is_acknowledged_with_the_position(edge: Server) -> None:
    """Session that publishes learns where its message stands, and a repeated key stores nothing."""
    with speak(edge, "/talk?last=0") as speaker:
        speaker.hear()
        for _ in range(2):
            speaker.say(type="publish", id=7, data={"x": 1}, key="session-key")
        heard = [speaker.hear() for _ in range(3)]
        acknowledged = [one for one in heard if one["type"] == "published"]
        (message,) = [one for one in heard if one["type"] == "message"]
        assert acknowledged == [{"type": "published", "id": 7, "position": message["position"]}] * 2


def test_one_socket_takes_many_channels(edge: Server, http: httpx.Client) -> None:
    """Socket on /ws subscribes, resumes, publishes and unsubscribes, channel by channel."""
    (first,) = push(http, "chat.ws1", "old")
    with speak(edge, "/ws") as speaker:
        speaker.say(type="subscribe", id="a", channel="chat.ws1", since="earliest")
        assert speaker.hear()["id"] == "a"
        assert speaker.hear()["position"] == first
        speaker.say(type="subscribe", channel="talk", last=0)
        assert speaker.hear()["channel"] == "talk"
        speaker.say(type="publish", id=1, channel="talk", data="hi")
        assert {speaker.hear()["type"], speaker.hear()["type"]} == {"published", "message"}
        speaker.say(type="unsubscribe", id=2, channel="chat.ws1")
        assert speaker.hear() == {"type": "unsubscribed", "id": 2, "channel": "chat.ws1", "code": 1000}
        push(http, "chat.ws1", "unheard")
        push(http, "talk", "heard")
        assert speaker.hear()["data"] == "heard"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"type": "subscribe", "channel": "nope"}, "unknown_channel"),
        ({"type": "subscribe", "channel": "listen", "since": "x"}, "malformed"),
        ({"type": "subscribe", "channel": "listen", "last": -1}, "malformed"),
        ({"type": "subscribe"}, "malformed"),
        ({"type": "subscribe", "channel": 7}, "malformed"),
        ({"type": "subscribe", "channel": "listen", "sinse": "x"}, "malformed"),
        ({"type": "unsubscribe", "channel": "listen"}, "unknown_channel"),
        ({"type": "publish", "channel": "talk"}, "malformed"),
        ({"type": "publish", "channel": "listen", "data": 1}, "forbidden"),
        ({"type": "publish", "channel": "small", "data": "x" * 30}, "too_large"),
        ({"type": "publish", "channel": "talk", "data": 1, "key": "a b"}, "malformed"),
        ({"type": "publish", "channel": "talk", "data": 1, "id": []}, "malformed"),
        ({"type": "dance"}, "malformed"),
        ({}, "malformed"),
    ],
)
def test_a_bad_request_is_an_error_and_the_socket_stays(edge: Server, said: dict[str, Any], code: str) -> None:
    """Session is told what is wrong, by the id of its request, and goes on."""
    with speak(edge, "/ws") as speaker:
        speaker.say(**{"id": "x", **said})
        error = speaker.hear()
        assert (error["type"], error["code"]) == ("error", code)
        assert error.get("id", "x") == "x"
        assert error["status"] in range(400, 500)
        speaker.say(type="subscribe", channel="lebowski")
        assert speaker.hear()["type"] == "subscribed"


def test_subscribing_twice_changes_nothing(edge: Server, http: httpx.Client) -> None:
    """Session that subscribes to a channel again is refused, and hears on, once."""
    with speak(edge, "/ws") as speaker:
        for _ in range(2):
            speaker.say(type="subscribe", channel="chat.twice")
        assert [speaker.hear()["type"] for _ in range(2)] == ["subscribed", "error"]
        push(http, "chat.twice", 1, 2)
        assert [speaker.hear()["data"] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(("frame", "code"), [("[]", 4400), ("1", 4400), ("{", 4400), (b"{}", 1003)])
def test_what_is_no_json_object_closes(edge: Server, frame: str | bytes, code: int) -> None:
    """Session closes with 4400 for text that is no JSON object, with 1003 for a binary frame."""
    with speak(edge, "/ws") as speaker:
        speaker.socket.send(frame)
        assert speaker.close_code() == code


def test_a_channels_own_socket_is_for_it_alone(edge: Server) -> None:
    """Session on a channel's path cannot subscribe to others."""
    with speak(edge, "/lebowski") as speaker:
        speaker.hear()
        speaker.say(type="subscribe", channel="talk")
        assert "/ws" in speaker.hear()["message"]

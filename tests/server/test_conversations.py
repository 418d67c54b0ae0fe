"""RFC 6455 over a socket: every conversation of the table, attached and detached, in large pieces and in small."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.conversations import AFTER_A_CLOSE, ALL, LIMIT, Conversation
from tests.support import asgi_app
from tests.support.local import LocalServer, wait_for
from tests.support.wire import Wire


@pytest.fixture(scope="module")
def local() -> Iterator[LocalServer]:
    """Serve both echoes."""
    with LocalServer(asgi_app.app, ws_max_size=LIMIT) as server:
        yield server


@pytest.mark.parametrize("path", ["/echo", "/detached"])
@pytest.mark.parametrize(
    ("conversation", "size"),
    [
        *(pytest.param(one, None, id=f"{one.name}, whole") for one in ALL + AFTER_A_CLOSE),
        *(pytest.param(one, 1, id=f"{one.name}, in pieces") for one in ALL),
    ],
)
def test_every_conversation_ends_as_the_rfc_says(
    local: LocalServer, conversation: Conversation, size: int | None, path: str
) -> None:
    """Server answers as the RFC says, tells the application the close code, and ends the connection in order."""
    if size is not None and len(conversation.sent) > 2000:
        size = 1447  # what a packet often has
    asgi_app.codes.clear()
    with Wire.open(local.port, path) as wire:
        wire.send(conversation.sent, size=size)
        assert [wire.read_frame() for _ in conversation.answers] == conversation.answers
        assert wire.read_close() == conversation.code
    wait_for(lambda: not local.connections)
    told = 1005 if conversation.code is None else conversation.code
    assert wait_for(lambda: asgi_app.codes) == [told]

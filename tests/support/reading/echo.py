"""An application that answers each request with what it understood, and remembers it."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

from app.core.ports import Answer
from app.wire.request_head import RequestHead
from tests.support.reading.corpus import Message

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

_OF_THE_HOP = {
    *("connection", "expect", "http2-settings", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
}
"""What one party says to the next, who need not pass it on."""


def end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    """Return the headers that are meant for the application, as text."""
    decoded = ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers)
    return tuple((name, value) for name, value in decoded if name not in _OF_THE_HOP)


class Echo:
    """Answers 200 with the request as JSON; opens each WebSocket and closes it."""

    def __init__(self, noticed: Callable[[], None] = lambda: None) -> None:
        self.seen: defaultdict[str, list[Message]] = defaultdict(list)
        """The requests that were complete, by the client's ``host``, in their order; WebSockets among them."""
        self._noticed = noticed

    def take(self) -> tuple[Message, ...]:
        """Return and forget the requests of all clients."""
        seen = [message for host in list(self.seen) for message in self.seen.pop(host)]
        return tuple(seen)

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Serve as an ASGI application; :attr:`seen` notes a request once its body is complete."""
        if scope["type"] == "websocket":
            await self._close(scope, receive, send)
            return
        body, more = b"", True
        while more:
            event = await receive()
            self._noticed()
            if event["type"] == "http.disconnect":
                return
            body += event["body"]
            more = event["more_body"]
        message = self._see(scope, scope["method"], body)
        # The answer to HEAD has no body, and no length that a reader could take for one.
        answer = b"" if message.method == "HEAD" else as_json(message)
        headers = [] if message.method == "HEAD" else [(b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def see(self, message: Message, client: str) -> None:
        """Note a request of a client."""
        self.seen[client].append(message)
        self._noticed()

    async def _close(self, scope: Event, receive: Receive, send: Send) -> None:
        await receive()
        self._see(scope, "WEBSOCKET", b"")
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 1000})

    def _see(self, scope: Mapping[str, Any], method: str, body: bytes) -> Message:
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        target = (scope["raw_path"] + query).decode("latin-1")
        message = Message(method, target, body, end_to_end(scope["headers"]))
        self.see(message, str((scope["client"] or ("",))[0]))
        return message


class EchoDirect:
    """The same as a :class:`~app.core.ports.Direct`: it takes whole ``POST``s, and knows their path."""

    def __init__(self, app: Echo) -> None:
        self.app = app

    def parse(self, head: RequestHead) -> RequestHead:
        """Return the head as it is."""
        return head

    def __call__(self, head: RequestHead, client: str | None, body: bytes, answer: Answer) -> None:
        """Answer in the next turn of the loop."""
        message = Message("POST", head.target.path, body, end_to_end(head.headers))
        self.app.see(message, str(client))
        asyncio.get_running_loop().call_soon(answer, 200, (), as_json(message))


def as_json(message: Message) -> bytes:
    """Return the answer to a message."""
    return json.dumps([message.method, message.target, message.body.decode("latin-1"), message.headers]).encode()


def from_json(answer: bytes) -> Message:
    """Return the message that was answered."""
    method, target, body, headers = json.loads(answer)
    return Message(method, target, body.encode("latin-1"), tuple((name, value) for name, value in headers))

"""Handshakes of WebSockets and requests for event streams, which our server passes on without ASGI."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from app.core.ports import Reply
from app.web.edge.cors import Cors
from app.web.edge.prefix import within
from app.web.subscribe.reads import Reads, StreamHead
from app.web.subscribe.socket_head import ECHO, SocketHead
from app.web.subscribe.sse import StreamAdmission
from app.web.subscribe.websocket import Admission, Sockets
from app.wire.request_head import RequestHead


class DirectStreams:
    """The application's :class:`~app.core.ports.DirectStreams`."""

    def __init__(self, app: object, root_path: str, in_force: Callable[[], tuple[Reads, Cors]]) -> None:
        """``in_force`` returns what the current settings made."""
        self.app = app
        self._root_path = root_path
        self._in_force = in_force

    def parse(self, head: RequestHead) -> StreamHead | None:
        """Return the parsed request head of an event stream; None of another one, or of one that cannot be read."""
        path = within(self._root_path, head.target.path)
        return None if path is None else StreamHead.of(path, head.headers)

    def admit(
        self,
        head: StreamHead,
        query: bytes,
        bearer: bytes | None,
        last_event: bytes | None,
        client: str | None,
    ) -> StreamAdmission | None:
        """Admit a reader; None if that has to wait, if it is refused, or if no channel has the path."""
        reads, cors = self._in_force()
        return reads.admit(head, query, bearer, last_event, client, cors)


class DirectSockets:
    """The application's :class:`~app.core.ports.DirectSockets`."""

    def __init__(self, app: object, root_path: str, in_force: Callable[[], Sockets]) -> None:
        """``in_force`` returns what the current settings made."""
        self.app = app
        self._root_path = root_path
        self._in_force = in_force

    def parse(self, head: RequestHead, subprotocols: Sequence[str]) -> SocketHead | None:
        """Return the parsed request head of a channel's or of ``/ws``'s handshake; None of another one."""
        path = within(self._root_path, head.target.path)
        if path is None or path == ECHO:
            return None
        return SocketHead.of(path, head.target.path, head.headers, subprotocols)

    def admit(
        self, head: SocketHead, query: bytes, bearer: bytes | None, client: str | None
    ) -> Admission | Reply | None:
        """Decide a handshake; None if that has to wait, or if no channel has the path."""
        return self._in_force().admit(head, query, bearer, client)

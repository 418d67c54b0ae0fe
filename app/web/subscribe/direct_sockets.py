"""Handshakes of WebSockets, which our server passes on without ASGI."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from app.core.ports import Reply
from app.web.edge.prefix import within
from app.web.subscribe.socket_head import ECHO, SocketHead
from app.web.subscribe.websocket import Admission, Sockets
from app.wire.request_head import RequestHead


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

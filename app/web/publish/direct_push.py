"""Whole pushes, which our server passes on without ASGI."""

from __future__ import annotations

import time
from collections.abc import Callable

from app.core.ports import Answer, Reply
from app.web.edge.access import new_id, write_push
from app.web.edge.cors import Cors
from app.web.edge.prefix import within
from app.web.publish.push import Push
from app.web.publish.push_head import PushHead, is_push
from app.wire.request_head import RequestHead


class DirectPush:
    """The application's :class:`~app.core.ports.Direct`. It does for a push what ASGI middleware does otherwise."""

    def __init__(
        self,
        app: object,
        root_path: str,
        in_force: Callable[[], tuple[Push, Cors]],
        has_other_routes: Callable[[], bool] = lambda: False,
    ) -> None:
        """``in_force`` returns what the current settings made: what decides a push, and its CORS headers.

        If ``has_other_routes``, the application's own routes may take the paths of unknown channels.
        """
        self.app = app
        self._root_path = root_path
        self._in_force = in_force
        self._has_other_routes = has_other_routes

    def parse(self, head: RequestHead) -> PushHead | None:
        """Return a push's parsed request head; None for another request."""
        path = within(self._root_path, head.target.path)
        if path is None or not is_push(path):
            return None
        parsed = PushHead.of(path, head.headers, head.target.query)
        return None if self._has_other_routes() and not self._in_force()[0].has_channel(parsed) else parsed

    def __call__(self, head: PushHead, client: str | None, body: bytes, answer: Answer) -> None:
        """Decide a push, call ``answer`` once, later, and write its access log line."""
        line_id, begun = new_id(), time.perf_counter()
        push, cors = self._in_force()
        added = cors.added(head.origin)

        def send(reply: Reply) -> None:
            status, headers, content = reply
            answer(status, headers + added, content)
            write_push(line_id, begun, head.path, client, status, content)

        push(head, client, body, line_id, send)

"""The worker with heartbeats that a test can wait for."""

from typing import Any

from app.server.worker import AbideWorker
from app.web.subscribe import sse, websocket

sse.COMMENT_SECONDS = websocket.HEARTBEAT_SECONDS = 1.0


class HurriedWorker(AbideWorker):
    """Sends a heartbeat each second, and gives up who says nothing for two."""

    CONFIG_KWARGS: dict[str, Any] = AbideWorker.CONFIG_KWARGS | {"ws_ping_interval": 1.0, "ws_ping_timeout": 1.0}

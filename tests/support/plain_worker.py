"""A worker whose server cannot hand connections over, as every server but ours."""

from typing import Any

from app.server.worker import AbideWorker


class PlainWorker(AbideWorker):
    """Serves WebSockets by uvicorn's own protocol, over plain ASGI."""

    CONFIG_KWARGS: dict[str, Any] = {  # noqa: RUF012 — declared so
        **AbideWorker.CONFIG_KWARGS,
        "ws": "websockets-sansio",
        "http": "h11",
        "proxy_headers": True,
    }

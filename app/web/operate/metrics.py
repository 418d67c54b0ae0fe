"""``GET /metrics``: the metrics of all workers, for Prometheus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request, Response

Exposition = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Takes an Accept header, and returns the body and its content type."""


class Metrics:
    """The route that answers with the metrics."""

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition

    async def answer(self, request: Request) -> Response:
        """Answer in the format that the client accepts."""
        body, content_type = await self._exposition(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type, "cache-control": "no-store"})

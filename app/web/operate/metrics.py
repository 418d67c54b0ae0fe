"""``GET /metrics``: the numbers of all workers, for Prometheus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request, Response

Exposition = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Returns what to answer who accepts these media types, and its content type."""


class Metrics:
    """The route."""

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition

    async def answer(self, request: Request) -> Response:
        """Answer in the format that is asked for."""
        body, content_type = await self._exposition(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type, "cache-control": "no-store"})

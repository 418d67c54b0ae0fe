"""A publisher that keeps a ledger: what was acknowledged, and what may be stored or not."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence
from typing import Any

import aiohttp

from tests.support.verdict import Ledger, Timeline

UNANSWERED = (OSError, aiohttp.ClientError, TimeoutError)
"""What leaves a publisher without an answer."""

PAUSE = 0.05
"""Seconds before it tries again."""


class Publisher:
    """Publishes over HTTP, on a new connection each time, so that any worker may answer."""

    def __init__(self, url: str, ledger: Ledger, timeline: Timeline) -> None:
        self._url = url
        self._ledger = ledger
        self._timeline = timeline

    async def once(self, channel: str, data: str) -> None:
        """Publish without a key, and leave it at that."""
        self._ledger.doubt(channel, data)
        try:
            answer = await self._post(f"push/{channel}", data)
        except UNANSWERED as error:
            self._timeline.note(f"publish to {channel} without an answer: {type(error).__name__} {error}")
        else:
            self._ledger.acknowledge(channel, answer["position"], data)

    async def insist(self, channel: str, data: str, *, impatience: float | None = None) -> None:
        """Publish with a key until it is acknowledged; go away after ``impatience`` seconds of the first attempt."""
        key = str(uuid.uuid4())
        self._ledger.doubt(channel, data)
        while True:
            try:
                async with asyncio.timeout(impatience):
                    answer = await self._post(f"push/{channel}", data, {"idempotency-key": key})
            except UNANSWERED as error:
                self._timeline.note(f"publish to {channel} again: {type(error).__name__} {error}")
            else:
                self._ledger.acknowledge(channel, answer["position"], data)
                return
            impatience = None
            await asyncio.sleep(PAUSE)

    async def many(self, channel: str, datas: Sequence[str]) -> None:
        """Publish messages by one request, without keys."""
        for data in datas:
            self._ledger.doubt(channel, data)
        try:
            answers = await self._post("push", [{"channel": channel, "message": data} for data in datas])
        except UNANSWERED as error:
            self._timeline.note(f"{len(datas)} messages to {channel} without an answer: {type(error).__name__} {error}")
            return
        for answer, data in zip(answers, datas, strict=True):
            if "position" in answer:
                self._ledger.acknowledge(channel, answer["position"], data)

    async def _post(self, path: str, body: object, headers: dict[str, str] | None = None) -> Any:  # noqa: ANN401 — JSON
        content = json.dumps(body).encode()
        headers = {"content-type": "application/json"} | (headers or {})
        timeout = aiohttp.ClientTimeout(total=10)
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.post(f"{self._url}/{path}", data=content, headers=headers) as response,
        ):
            response.raise_for_status()
            return await response.json()

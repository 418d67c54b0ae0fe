"""A publisher that keeps a ledger: what was acknowledged, and what may be stored or not."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

import aiohttp

from tests.support.verdict import Ledger, Timeline

UNANSWERED = (OSError, aiohttp.ClientError, TimeoutError)
"""What leaves a publisher without an answer."""

PAUSE = 0.05
"""Seconds before it tries again."""

LONGEST = 10
"""Seconds after which it no longer waits for an answer. None may take so long, whatever is broken."""


class Outcome(NamedTuple):
    """What a request came to."""

    at: float
    """When that was known, in seconds of the monotonic clock."""
    seconds: float
    """How long it took."""
    ok: bool


class Publisher:
    """Publishes over HTTP, on a new connection each time, so that any worker may answer."""

    def __init__(self, url: str, ledger: Ledger, timeline: Timeline) -> None:
        self._url = url
        self._ledger = ledger
        self._timeline = timeline
        self.outcomes: list[Outcome] = []
        """Of all requests that it waited for."""

    async def once(self, channel: str, data: str) -> None:
        """Publish without a key, and leave it at that."""
        self._ledger.doubt(channel, data)
        life = self._ledger.life
        try:
            answer = await self._post(f"push/{channel}", data)
        except UNANSWERED as error:
            self._timeline.note(f"publish to {channel} without an answer: {type(error).__name__} {error}")
        else:
            self._ledger.acknowledge(channel, answer["position"], data, life)

    async def insist(self, channel: str, data: str, *, impatience: float | None = None) -> None:
        """Publish with a key until it is acknowledged; go away after ``impatience`` seconds of the first attempt."""
        key = str(uuid.uuid4())
        while True:
            self._ledger.doubt(channel, data)
            life = self._ledger.life
            try:
                async with asyncio.timeout(impatience):
                    answer = await self._post(f"push/{channel}", data, {"idempotency-key": key})
            except UNANSWERED as error:
                self._timeline.note(f"publish to {channel} again: {type(error).__name__} {error}")
            else:
                self._ledger.acknowledge(channel, answer["position"], data, life)
                return
            impatience = None
            await asyncio.sleep(PAUSE)

    async def many(self, channel: str, datas: Sequence[str]) -> None:
        """Publish messages by one request, without keys."""
        for data in datas:
            self._ledger.doubt(channel, data)
        life = self._ledger.life
        try:
            answers = await self._post("push", [{"channel": channel, "message": data} for data in datas])
        except UNANSWERED as error:
            self._timeline.note(f"{len(datas)} messages to {channel} without an answer: {type(error).__name__} {error}")
            return
        for answer, data in zip(answers, datas, strict=True):
            if "position" in answer:
                self._ledger.acknowledge(channel, answer["position"], data, life)

    async def _post(self, path: str, body: object, headers: dict[str, str] | None = None) -> Any:  # noqa: ANN401 — JSON
        began = time.monotonic()
        try:
            answer = await self._send(path, body, headers)
        except UNANSWERED:
            self._note(began, ok=False)
            raise
        # Of an array's items, those that were refused are problems.
        self._note(began, ok=all("position" in item for item in (answer if isinstance(answer, list) else [answer])))
        return answer

    async def _send(self, path: str, body: object, headers: dict[str, str] | None) -> Any:  # noqa: ANN401 — JSON
        content = json.dumps(body).encode()
        headers = {"content-type": "application/json"} | (headers or {})
        timeout = aiohttp.ClientTimeout(total=LONGEST)
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.post(f"{self._url}/{path}", data=content, headers=headers) as response,
        ):
            response.raise_for_status()
            return await response.json()

    def _note(self, began: float, *, ok: bool) -> None:
        now = time.monotonic()
        self.outcomes.append(Outcome(now, now - began, ok))

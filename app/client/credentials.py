"""The token of a subscription or a publish, which is renewed before it ends and after a refusal."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import time
from collections.abc import Awaitable, Callable

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from . import waits
from .client_error import ClientError, plain

Token = str | Callable[[], str | Awaitable[str]]
"""A token, or a function that returns a new one."""


class Tokens:
    """The token in use, and the function that returns new ones; it is called at most once a second."""

    def __init__(self, source: Token | None) -> None:
        self._source, self._held = source, None if callable(source) else source
        self._refused: str | None = None
        self._asked = self._due = float("-inf")
        self._failures = self._refusals = 0

    async def get(self) -> str | None:
        """Return the token in use, or a new one if that one was refused or ends soon."""
        if not callable(self._source) or time.monotonic() < self._due:
            return self._held
        await asyncio.sleep(self._asked + 1 - time.monotonic())
        self._asked, token, problem = time.monotonic(), self._held, ""
        try:
            async with asyncio.timeout(waits.OPEN_SECONDS):
                answer = self._source()
                token = await answer if isinstance(answer, Awaitable) else answer
        except Exception as error:  # noqa: BLE001 — it is the user's function
            self._failures, problem = self._failures + 1, plain(error) or type(error).__name__
        if token == self._refused if token else problem:
            msg = f"no token: {problem or 'the function returned the one that the server refused'}"
            raise ClientError(msg, code="unauthorised", passes=bool(problem and (token or self._failures == 1)))
        share = 1.0 if token == self._held else 0.1  # of the seconds left, in which the next one is asked for
        self._held, left = token, _seconds_left(token)
        self._due = self._asked + max(1.0, min(left - 1, left * (1 - share * random.random())))  # noqa: S311 — it spreads load
        return token

    async def renew(self, socket: ClientConnection) -> None:
        """Send each new token on an open connection, before the one in use ends."""
        sent = self._held
        while _seconds_left(self._held) > 0:
            await asyncio.sleep(self._due - time.monotonic())
            with contextlib.suppress(ClientError, ConnectionClosed):
                if (token := await self.get()) and token != sent:
                    await socket.send(json.dumps({"type": "token", "token": token}))
                    sent = token

    def judge(self, error: ClientError) -> ClientError:
        """Return an error that may pass, perhaps with another token; raise any other."""
        if not error.passes:
            self._refusals = self._refusals + 1 if time.monotonic() - self._asked < waits.CAP else 0
            renews = error.status in {401, 4401, 4408} and callable(self._source) and self._held
            if not renews or self._refusals > 1:
                raise error
            self._refused, self._due = self._held, self._asked
        return error


def _seconds_left(token: str | None) -> float:
    """Return the seconds until a token ends, as it says itself: it is read, not verified."""
    with contextlib.suppress(AttributeError, LookupError, TypeError, ValueError):
        return float(json.loads(base64.urlsafe_b64decode(str(token).split(".")[1] + "=="))["exp"]) - time.time()
    return 0.0

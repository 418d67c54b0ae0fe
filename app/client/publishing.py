"""Publish one message, once, however often it has to be sent."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import uuid
from urllib.parse import urlsplit

from . import waits
from .addresses import address_of, headers_of, server_of
from .client_error import ClientError, redirected, refused, unreachable
from .credentials import Token, Tokens
from .messages import NOWHERE, parse

_REDIRECTS = range(300, 400)


async def publish(  # noqa: PLR0913 — all but three have defaults
    url: str,
    channel: str,
    data: object,
    *,
    key: str | None = None,
    token: Token | None = None,
    idempotency_key: str | None = None,
    patience: float = 10.0,
) -> str:
    """Publish ``data``, any JSON value, and return its position once it is stored. Bytes are sent as they are.

    While the server is away or overloaded, it retries for ``patience`` seconds. The message is stored only once,
    thanks to its idempotency key; one is made if none is given. Raises :class:`ClientError` if it fails.
    """
    if not isinstance(data, bytes):
        data = json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")
    address, tokens, clock = address_of(url, f"push/{channel}"), Tokens(token or key), asyncio.get_running_loop().time
    idempotency_key, deadline, attempt = idempotency_key or str(uuid.uuid4()), clock() + patience, 0
    trouble: ClientError | None = None
    while True:
        seconds = min(waits.ANSWER_SECONDS, max(1.0, deadline - clock()))
        try:
            headers = headers_of(await tokens.get(), idempotency_key)
            async with asyncio.timeout(seconds):  # in Python 3.11 wait_for may miss that it is cancelled
                return await asyncio.to_thread(_post, address, headers, data, seconds)
        except TimeoutError as error:
            # What the server said before tells more than that its last answer came too late.
            trouble = trouble if trouble and trouble.status else unreachable(error, server_of(url))
        except ClientError as error:
            trouble = tokens.judge(error)
        pause = trouble.wait + waits.backoff(attempt)
        if clock() + pause > deadline:
            raise trouble
        await asyncio.sleep(pause)
        attempt += 1


def _post(address: str, headers: dict[str, str], body: bytes, seconds: float) -> str:
    parts = urlsplit(address)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    with contextlib.closing(kind(parts.hostname or "", parts.port, timeout=seconds)) as connection:
        try:
            connection.request("POST", parts.path, body, headers | {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise unreachable(error, server_of(address)) from None
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        return str(parse(text.decode())["position"] or NOWHERE)
    if answer.status in _REDIRECTS and (location := answer.getheader("Location")):
        raise redirected(location)
    raise refused(answer.status, text, answer.getheader("Retry-After", ""))

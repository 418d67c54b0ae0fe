"""Subscribe without a hole: one WebSocket after another, each from where the last one ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidProxy,
    InvalidStatus,
    InvalidURI,
    ProxyError,
)

from . import waits
from .addresses import address_of, headers_of, server_of
from .client_error import ClientError, closed, redirected, refused, unreachable
from .credentials import Token, Tokens
from .messages import NOWHERE, Gap, Message, read_frame

_V1 = "abide.v1"
_WS: Any = {"compression": None, "max_size": 2**21, "close_timeout": 2, "ping_interval": None, "subprotocols": [_V1]}


async def subscribe(  # noqa: PLR0913 — all but two have defaults
    url: str,
    channel: str,
    *,
    since: str | None = None,
    last: int | None = None,
    key: str | None = None,
    token: Token | None = None,
    on_gap: Callable[[Gap], object] = lambda _: None,
    on_notice: Callable[[str], object] = lambda _: None,
) -> AsyncGenerator[Message, None]:
    """Yield the messages of a channel, each once and in order; reconnect as often as necessary.

    It starts after the position ``since``, or with the oldest message kept (``"earliest"``), or with the newest
    ``last`` messages; otherwise with the next. ``on_gap`` is called with each gap before the messages after it,
    ``on_notice`` with a sentence when a connection is lost or back. Raises :class:`ClientError` or what they raise.
    """
    address, tokens = address_of(url, channel, socket=True), Tokens(token or key)
    clock, attempt, lost = asyncio.get_running_loop().time, -1, False
    while True:
        began = clock()
        query = [pair for pair in (("since", since), ("last", last), ("heartbeat", "true")) if pair[1] is not None]
        try:
            socket = await _connect(f"{address}?{urlencode(query)}", headers_of(await tokens.get()))
        except ClientError as error:
            trouble = tokens.judge(error)
        else:
            link, renewing = _Link(channel, socket, since), asyncio.create_task(tokens.renew(socket))
            try:
                while not isinstance(frame := await link.receive(), ClientError):
                    since = link.since
                    if isinstance(frame, Message):
                        yield frame
                    elif isinstance(frame, Gap):
                        on_gap(frame)
                    elif lost and frame["type"] == "subscribed":
                        on_notice(f"connected again, after {frame['position']}")
                        lost = False
                trouble = tokens.judge(frame)
            finally:
                renewing.cancel()
                await socket.close()
        if not lost:
            on_notice(f"not connected: {trouble}; trying again")
        lost, attempt = True, 0 if clock() - began >= waits.CAP else attempt + 1
        await asyncio.sleep(trouble.wait + waits.backoff(attempt))


async def _connect(address: str, headers: dict[str, str]) -> ClientConnection:
    try:
        socket = await connect(address, additional_headers=headers, open_timeout=waits.OPEN_SECONDS, **_WS)
    except InvalidStatus as error:
        answer = error.response
        raise refused(answer.status_code, bytes(answer.body), answer.headers.get("Retry-After", "")) from None
    except (OSError, InvalidMessage, ProxyError) as error:
        raise unreachable(error, server_of(address)) from None
    except InvalidURI as error:
        raise redirected(error.uri) from None
    except (InvalidHandshake, InvalidProxy) as error:
        raise ClientError(str(error)) from None
    if socket.subprotocol != _V1:
        await socket.close()
        msg = f"the server does not speak {_V1}: is this the address of a channel?"
        raise ClientError(msg)
    return socket


class _Link:
    """One WebSocket; it is given up when two of the server's heartbeats are missing."""

    def __init__(self, channel: str, socket: ClientConnection, since: str | None) -> None:
        self._channel, self._socket, self.since = channel, socket, since
        self._patience: float | None = waits.OPEN_SECONDS  # None for a server without heartbeats

    async def receive(self) -> Message | Gap | dict[str, Any] | ClientError:
        """Return the next frame, or why there is none."""
        try:
            async with asyncio.timeout(self._patience):
                text = (await self._socket.recv(decode=False)).decode("utf-8", "surrogateescape")
            frame = read_frame(self._channel, text)
            self.since, self._patience = _moved(self.since, frame), self._patience_after(frame)
        except TimeoutError:
            return ClientError(f"nothing came for {self._patience:g} s", passes=True)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return ClientError(f"the server sent something that is no frame of {_V1}", passes=True)
        except ConnectionClosed as error:
            status, reason = (close.code, close.reason) if (close := error.rcvd or error.sent) else (1006, "")
            return closed(status, reason)
        return frame

    def _patience_after(self, frame: Message | Gap | dict[str, Any]) -> float | None:
        if isinstance(frame, dict) and frame["type"] == "heartbeat":
            return 2 * float(frame["seconds"])
        return None if self._patience == waits.OPEN_SECONDS else self._patience


def _moved(since: str | None, frame: Message | Gap | dict[str, Any]) -> str | None:
    """Return the position of the subscription after a frame."""
    if isinstance(frame, Message):
        return frame.position
    if isinstance(frame, Gap):
        if frame.next == NOWHERE:
            return NOWHERE
        epoch, _, offset = frame.next.partition(":")
        return f"{epoch}:{int(offset) - 1}"
    if frame["type"] == "subscribed" and (frame["resumed"] or ":" not in (since or "")):
        return str(frame["position"])  # otherwise a gap follows, which must not be lost with the connection
    return since

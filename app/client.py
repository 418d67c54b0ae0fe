"""A client in one file: publish, and subscribe without a hole.

It needs the ``websockets`` package and nothing else of Abide: copy it into your project.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import http.client
import itertools
import json
import random
import re
import ssl
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Any, NamedTuple, NoReturn, Self, cast
from urllib.parse import quote, urlencode, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus, ProxyError
from websockets.typing import Subprotocol

BASE, CAP = 0.1, 5.0  # seconds: a pause is at most BASE, doubled with each attempt up to CAP
_SUBPROTOCOL = Subprotocol("abide.v1")
_SCHEMES = {"http": ("http", "ws"), "https": ("https", "wss"), "ws": ("http", "ws"), "wss": ("https", "wss")}
PASSING = {1000, 1001, 1005, 1006, 1008, 1011, 1012, 1013, 1014, 4408}  # close codes
PASSING_STATUSES = {408, 425, 429}  # and from 500 on
CLOSED = {4400: "malformed", 4401: "unauthorised", 4403: "forbidden", 4404: "channel_removed"}
CLOSED |= {4410: "gap", 4429: "too_many"}
_LONGEST_WAIT = 60.0  # seconds of a Retry-After, at most
_LARGEST_FRAME = 2 * 1024 * 1024  # the largest message, 1 MiB, and its envelope
_OPEN_SECONDS = 15.0  # seconds until a connection is open, and then until the first frame
_ANSWER_SECONDS = 8.0  # seconds for one attempt to publish; the server needs six at most
_MISSED = 2  # missing heartbeats after which a connection is given up
_EXACT = re.compile(r'(?s)\{"type":"message","channel":"[^"]*","position":"([^"]*)","time":(\d{1,18}),"data":(.*)\}')


class Undecodable(str):
    """The data of a message that Python cannot decode, as it arrived."""

    __slots__ = ()


class _Message(NamedTuple):
    channel: str
    position: str
    time: int
    data: Any


class Message(_Message):
    """One message: ``time`` is in milliseconds since the Unix epoch, ``data`` is decoded JSON.

    ``raw`` is the data as the publisher wrote it. If Python cannot decode it, ``data`` is :class:`Undecodable`.
    """

    raw: str = ""

    @classmethod
    def of(cls, channel: str, position: str, milliseconds: int, raw: str) -> Self:
        """Return the message with this data."""
        data: Any
        try:
            data = _parse(raw)
        except ValueError:
            data = Undecodable(raw)
        message = cls(channel, position, milliseconds, data)
        message.raw = raw
        return message


class Gap(NamedTuple):
    """Messages that cannot be delivered: all between ``after`` and ``next``; for ``reason`` see docs/protocol.md."""

    channel: str
    after: str
    next: str
    reason: str


class ClientError(Exception):
    """The server refused, or could not be reached in time; ``str()`` says why.

    ``status`` is the HTTP status or the close code, ``code`` the stable word of docs/codes.md; None if there is none.
    """

    def __init__(self, detail: str, *, status: int | None = None, code: str | None = None) -> None:
        super().__init__(detail)
        self.status, self.code = status, code


class _PassingError(ClientError):
    """A retry after ``wait`` seconds may help."""

    wait = 0.0


def backoff(attempt: int) -> float:
    """Return the seconds to pause after attempt 0, 1, 2, …: anything up to a bound that doubles (full jitter)."""
    return random.uniform(0, min(CAP, BASE * 2 ** min(attempt, 16)))  # noqa: S311 — it spreads load, and guards nothing


async def subscribe(  # noqa: PLR0913 — all but two have defaults
    url: str,
    channel: str,
    *,
    since: str | None = None,
    last: int | None = None,
    key: str | None = None,
    on_gap: Callable[[Gap], object] = lambda _: None,
    on_notice: Callable[[str], object] = lambda _: None,
) -> AsyncGenerator[Message, None]:
    """Yield the messages of a channel, each once and in order; reconnect as often as necessary.

    It starts after the position ``since``, or with the oldest message kept (``since="earliest"``), or with the newest
    ``last`` messages; otherwise with the next message. ``on_gap`` is called with each gap, before the messages after
    it; ``on_notice`` with a sentence when a connection is lost or back. Raises :class:`ClientError` for a refusal, and
    whatever the callbacks raise.
    """
    address, headers, clock = _address(url, channel, socket=True), _headers(key), asyncio.get_running_loop().time
    attempt, lost = 0, False
    while True:
        began = clock()
        begin = {"since": since, "last": last, "heartbeat": "true"}  # `since` wins
        try:
            query = urlencode({name: value for name, value in begin.items() if value is not None})
            link = _Link(channel, await _connect(f"{address}?{query}", headers))
        except _PassingError as error:
            trouble = error
        else:
            try:
                while not isinstance(frame := await link.receive(), _PassingError):
                    since = _moved(since, frame)
                    if isinstance(frame, Message):
                        yield frame
                    elif isinstance(frame, Gap):
                        on_gap(frame)
                    elif lost and frame.get("type") == "subscribed":
                        on_notice(f"connected again, after {frame['position']}")
                        lost = False
                trouble = frame
            finally:
                await link.socket.close()
        if not lost:
            on_notice(f"not connected: {trouble}; trying again")
        lost, attempt = True, 0 if clock() - began >= CAP else attempt
        await asyncio.sleep(trouble.wait + backoff(attempt))
        attempt += 1


async def publish(  # noqa: PLR0913 — all but three have defaults
    url: str,
    channel: str,
    data: object,
    *,
    key: str | None = None,
    idempotency_key: str | None = None,
    patience: float = 10.0,
) -> str:
    """Publish ``data``, any JSON value, and return its position once it is stored. Bytes are sent as they are.

    While the server is away or overloaded, it retries for ``patience`` seconds. The message is stored only once,
    thanks to its idempotency key; one is made if none is given. Raises :class:`ClientError` if it fails.
    """
    body = (
        data
        if isinstance(data, bytes)
        else json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")
    )
    headers = _headers(key, idempotency_key or str(uuid.uuid4())) | {"Content-Type": "application/json"}
    address, clock = _address(url, f"push/{channel}"), asyncio.get_running_loop().time
    deadline = clock() + patience
    for attempt in itertools.count():
        try:
            return await _publish(address, headers, body, min(_ANSWER_SECONDS, max(1.0, deadline - clock())))
        except _PassingError as error:
            pause = error.wait + backoff(attempt)
            if clock() + pause > deadline:
                raise
        await asyncio.sleep(pause)
    raise AssertionError  # count() has no end


async def _connect(address: str, headers: dict[str, str]) -> ClientConnection:
    options: dict[str, Any] = {"compression": None, "max_size": _LARGEST_FRAME, "close_timeout": 2}
    options |= {"open_timeout": _OPEN_SECONDS, "ping_interval": None}  # the server sends heartbeats
    try:
        socket = await connect(address, subprotocols=[_SUBPROTOCOL], additional_headers=headers, **options)
    except InvalidStatus as error:
        answer = error.response
        raise _refused(answer.status_code, bytes(answer.body), answer.headers.get("Retry-After")) from None
    except (OSError, InvalidMessage, ProxyError) as error:
        raise _unreachable(error) from None
    except InvalidHandshake as error:
        raise ClientError(str(error)) from None
    if socket.subprotocol != _SUBPROTOCOL:
        await socket.close()
        msg = f"the server does not speak {_SUBPROTOCOL}: is this the address of a channel?"
        raise ClientError(msg)
    return socket


class _Link:
    """One WebSocket; it is given up when two of the server's heartbeats are missing."""

    def __init__(self, channel: str, socket: ClientConnection) -> None:
        self._channel = channel
        self.socket = socket
        self._patience: float | None = _OPEN_SECONDS
        """Seconds within which something must arrive; None for a server without heartbeats."""

    async def receive(self) -> Message | Gap | dict[str, Any] | _PassingError:
        """Return the next frame, or why there is none; raise an error that no retry can fix."""
        try:
            async with asyncio.timeout(self._patience):
                text = (await self.socket.recv(decode=False)).decode("utf-8", "surrogateescape")
            frame = self._read(text)
        except TimeoutError:
            return _PassingError(f"nothing came for {self._patience:g} s")
        except (ValueError, KeyError, TypeError, RecursionError):
            return _PassingError(f"the server sent something that is no frame of {_SUBPROTOCOL}")
        except ConnectionClosed as error:
            return _ended(error)
        if isinstance(frame, dict) and frame.get("type") == "heartbeat":
            self._patience = _MISSED * float(frame["seconds"])
        elif self._patience == _OPEN_SECONDS:
            self._patience = None
        return frame

    def _read(self, text: str) -> Message | Gap | dict[str, Any]:
        if match := _EXACT.fullmatch(text):
            return Message.of(self._channel, match[1], int(match[2]), match[3])
        frame = _parse(text)
        match frame["type"]:
            case "message":
                return Message.of(self._channel, frame["position"], frame["time"], json.dumps(frame["data"]))
            case "gap":
                return Gap(self._channel, frame["after"], frame["next"], frame["reason"])
        return cast("dict[str, Any]", frame)


def _ended(error: ConnectionClosed) -> _PassingError:
    """Return why a connection ended; raise an error that no retry can fix."""
    close = error.rcvd or error.sent
    status, reason = (close.code, close.reason) if close else (1006, "")
    detail = f"the connection ended with {status}{reason and f' ({reason})'}"
    if status in PASSING:
        return _PassingError(detail, status=status)
    raise ClientError(detail, status=status, code=CLOSED.get(status)) from None


def _moved(since: str | None, frame: Message | Gap | dict[str, Any]) -> str | None:
    """Return the position of the subscription after a frame."""
    if isinstance(frame, Message):
        return frame.position
    if isinstance(frame, Gap):
        epoch, _, offset = frame.next.partition(":")
        return f"{epoch}:{int(offset) - 1}"
    if frame.get("type") == "subscribed" and (frame["resumed"] or ":" not in (since or "")):
        return str(frame["position"])  # otherwise a gap follows, which must not be lost with the connection
    return since


async def _publish(address: str, headers: dict[str, str], body: bytes, seconds: float) -> str:
    """Make one attempt; return the position of the stored message."""
    try:
        return await asyncio.wait_for(asyncio.to_thread(_post, address, headers, body, seconds), seconds)
    except TimeoutError as error:
        raise _unreachable(error) from None


def _post(address: str, headers: dict[str, str], body: bytes, seconds: float) -> str:
    parts = urlsplit(address)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    with contextlib.closing(kind(parts.hostname or "", parts.port, timeout=seconds)) as connection:
        try:
            connection.request("POST", parts.path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(error) from None
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(_parse(text.decode())["position"])
    raise _refused(answer.status, text, answer.getheader("Retry-After"))


def _unreachable(error: Exception) -> ClientError:
    kind = ClientError if isinstance(error, ssl.SSLCertVerificationError) else _PassingError
    return kind(str(error) or "no answer in time")


def _refused(status: int, body: bytes, retry_after: str | None) -> ClientError:
    try:
        problem = _parse(body.decode())
        detail, code = str(problem["detail"]), str(problem["code"])
    except (ValueError, TypeError, KeyError):
        detail, code = f"the answer was HTTP status {status}", None
    if status < http.HTTPStatus.INTERNAL_SERVER_ERROR and status not in PASSING_STATUSES:
        return ClientError(detail, status=status, code=code)
    error = _PassingError(detail, status=status, code=code)
    error.wait = _wait(retry_after or "")
    return error


def _wait(retry_after: str) -> float:
    """Return the seconds of a ``Retry-After``, which is a number or a date."""
    seconds = float(retry_after) if re.fullmatch(r"[0-9]{1,9}", retry_after) else 0.0
    with contextlib.suppress(ValueError, OverflowError):
        seconds = seconds or email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
    return min(max(seconds, 0.0), _LONGEST_WAIT)


def _address(url: str, path: str, *, socket: bool = False) -> str:
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in _SCHEMES and parts.hostname and parts.port != 0:
            scheme = _SCHEMES[parts.scheme][socket]
            return f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/{quote(path, '/:')}"
    msg = f"{url!r} is not a server's address: expected http://host:port"
    raise ClientError(msg)


def _headers(key: str | None, idempotency_key: str | None = None) -> dict[str, str]:
    headers = {"Authorization": key and f"Bearer {key}", "Idempotency-Key": idempotency_key}
    if not all(value.isascii() and value.isprintable() for value in headers.values() if value):
        msg = "a key may hold visible ASCII characters only"
        raise ClientError(msg)
    return {name: value for name, value in headers.items() if value}


def _parse(text: str) -> Any:  # noqa: ANN401 — JSON
    """Return the value of a JSON text (RFC 8259); raise ValueError if it is not JSON, or too deep for Python."""
    try:
        return json.loads(text, parse_int=_integer, parse_constant=_refuse_constant)
    except RecursionError:
        msg = "it is nested too deep for Python"
        raise ValueError(msg) from None


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= 4300 else float(digits)  # noqa: PLR2004 — int() takes no more


def _refuse_constant(name: str) -> NoReturn:
    msg = f"JSON has no {name}"
    raise ValueError(msg)

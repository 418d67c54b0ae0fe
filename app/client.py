"""A client in one file: publish, and subscribe without a hole. Copy it into your project; it needs ``websockets``."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email.utils
import http.client
import json
import random
import re
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlencode, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus, ProxyError

BASE, CAP = 0.1, 5.0  # seconds: a pause is at most BASE, doubled with each attempt up to CAP
_V1 = "abide.v1"
PASSING = {1000, 1001, 1005, 1006, 1008, 1011, 1012, 1013, 1014, 4429}  # close codes
PASSING_STATUSES = {408, 425, 429}  # and from 500 on
CLOSED = {4400: "malformed", 4401: "unauthorised", 4403: "forbidden", 4404: "channel_removed"}
CLOSED |= {4408: "expired", 4410: "gap", 4422: "schema_mismatch", 4429: "rate_limited"}
_LONGEST_WAIT = 60.0  # seconds of a Retry-After, at most
_WS: Any = {"compression": None, "max_size": 2**21, "close_timeout": 2, "ping_interval": None, "subprotocols": [_V1]}
_OPEN_SECONDS, _ANSWER_SECONDS = 15.0, 8.0  # for a connection, and then for its first frame; for one attempt to publish
_EXACT = re.compile(r'(?s)\{"type":"message","channel":"[^"]*","position":"([^"]*)","time":(\d{1,18}),"data":(.*)\}')

Token = str | Callable[[], str | Awaitable[str]]  # a token, or a function that returns a new one


class Undecodable(str):
    """The data of a message that Python cannot decode, as it arrived."""

    __slots__ = ()


class Message(NamedTuple("Message", [("channel", str), ("position", str), ("time", int), ("data", Any)])):  # noqa: SLOT002
    """One message: ``time`` is in milliseconds since the Unix epoch, ``data`` is decoded JSON.

    ``raw`` is the data as the publisher wrote it. If Python cannot decode it, ``data`` is :class:`Undecodable`.
    """

    raw: str = ""

    @classmethod
    def of(cls, channel: str, position: str, milliseconds: int, raw: str) -> Self:
        """Return the message with this data."""
        try:
            data: Any = _parse(raw)
        except (ValueError, RecursionError):
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

    ``status`` is the HTTP status or the close code, ``code`` the stable word of docs/codes.md, ``pointer`` the JSON
    pointer to what does not fit a schema, or None. If it ``passes``, another attempt may help after ``wait`` seconds.
    """

    def __init__(self, why: str, *, status: int | None = None, code: str | None = None, passes: bool = False) -> None:
        super().__init__(why)
        self.status, self.code, self.passes, self.wait = status, code, passes, 0.0
        self.pointer: str | None = None


class _Tokens:
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
            async with asyncio.timeout(_OPEN_SECONDS):
                answer = self._source()
                token = await answer if isinstance(answer, Awaitable) else answer
        except Exception as error:  # noqa: BLE001 — it is the user's function
            self._failures, problem = self._failures + 1, str(error) or type(error).__name__
        if token == self._refused if token else problem:
            msg = f"no token: {problem or 'the function returned the one that the server refused'}"
            raise ClientError(msg, code="unauthorised", passes=bool(problem and (token or self._failures == 1)))
        share = 1.0 if token == self._held else 0.1  # of the seconds left, in which the next one is asked for
        self._held, left = token, _seconds_left(token)
        self._due = self._asked + max(1.0, min(left - 1, left * (1 - share * random.random())))  # noqa: S311 — as below
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
            self._refusals = self._refusals + 1 if time.monotonic() - self._asked < CAP else 0
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
    token: Token | None = None,
    on_gap: Callable[[Gap], object] = lambda _: None,
    on_notice: Callable[[str], object] = lambda _: None,
) -> AsyncGenerator[Message, None]:
    """Yield the messages of a channel, each once and in order; reconnect as often as necessary.

    It starts after the position ``since``, or with the oldest message kept (``"earliest"``), or with the newest
    ``last`` messages; otherwise with the next. ``on_gap`` is called with each gap before the messages after it,
    ``on_notice`` with a sentence when a connection is lost or back. Raises :class:`ClientError` or what they raise.
    """
    address, tokens, clock = _address(url, channel, socket=True), _Tokens(token or key), asyncio.get_running_loop().time
    attempt, lost = -1, False
    while True:
        began = clock()
        query = [pair for pair in (("since", since), ("last", last), ("heartbeat", "true")) if pair[1] is not None]
        try:
            link = _Link(channel, await _connect(f"{address}?{urlencode(query)}", _headers(await tokens.get())))
        except ClientError as error:
            trouble = tokens.judge(error)
        else:
            renewing = asyncio.create_task(tokens.renew(link.socket))
            try:
                while not isinstance(frame := await link.receive(), ClientError):
                    since = _moved(since, frame)
                    if isinstance(frame, Message):
                        yield frame
                    elif isinstance(frame, Gap):
                        on_gap(frame)
                    elif lost and frame.get("type") == "subscribed":
                        on_notice(f"connected again, after {frame['position']}")
                        lost = False
                trouble = tokens.judge(frame)
            finally:
                renewing.cancel()
                await link.socket.close()
        if not lost:
            on_notice(f"not connected: {trouble}; trying again")
        lost, attempt = True, 0 if clock() - began >= CAP else attempt + 1
        await asyncio.sleep(trouble.wait + backoff(attempt))


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
    address, tokens, clock = _address(url, f"push/{channel}"), _Tokens(token or key), asyncio.get_running_loop().time
    idempotency_key, deadline, attempt = idempotency_key or str(uuid.uuid4()), clock() + patience, 0
    while True:
        seconds = min(_ANSWER_SECONDS, max(1.0, deadline - clock()))
        try:
            headers = _headers(await tokens.get(), idempotency_key)
            return await asyncio.wait_for(asyncio.to_thread(_post, address, headers, data, seconds), seconds)
        except (ClientError, TimeoutError) as error:
            trouble = tokens.judge(error if isinstance(error, ClientError) else _unreachable(error))
        pause = trouble.wait + backoff(attempt)
        if clock() + pause > deadline:
            raise trouble
        await asyncio.sleep(pause)
        attempt += 1


async def _connect(address: str, headers: dict[str, str]) -> ClientConnection:
    try:
        socket = await connect(address, additional_headers=headers, open_timeout=_OPEN_SECONDS, **_WS)
    except InvalidStatus as error:
        answer = error.response
        raise _refused(answer.status_code, bytes(answer.body), answer.headers.get("Retry-After", "")) from None
    except (OSError, InvalidMessage, ProxyError) as error:
        raise _unreachable(error) from None
    except InvalidHandshake as error:
        raise ClientError(str(error)) from None
    if socket.subprotocol != _V1:
        await socket.close()
        msg = f"the server does not speak {_V1}: is this the address of a channel?"
        raise ClientError(msg)
    return socket


class _Link:
    """One WebSocket; it is given up when two of the server's heartbeats are missing."""

    def __init__(self, channel: str, socket: ClientConnection) -> None:
        self._channel, self.socket = channel, socket
        self._patience: float | None = _OPEN_SECONDS  # None for a server without heartbeats

    async def receive(self) -> Message | Gap | dict[str, Any] | ClientError:
        """Return the next frame, or why there is none."""
        try:
            async with asyncio.timeout(self._patience):
                text = (await self.socket.recv(decode=False)).decode("utf-8", "surrogateescape")
            frame = self._read(text)
        except TimeoutError:
            return ClientError(f"nothing came for {self._patience:g} s", passes=True)
        except (ValueError, KeyError, TypeError, RecursionError):
            return ClientError(f"the server sent something that is no frame of {_V1}", passes=True)
        except ConnectionClosed as error:
            status, reason = (close.code, close.reason) if (close := error.rcvd or error.sent) else (1006, "")
            detail = f"the connection ended with {status}{reason and f' ({reason})'}"
            return ClientError(detail, status=status, code=CLOSED.get(status), passes=status in PASSING)
        if isinstance(frame, dict) and frame.get("type") == "heartbeat":
            self._patience = 2 * float(frame["seconds"])
        elif self._patience == _OPEN_SECONDS:
            self._patience = None
        return frame

    def _read(self, text: str) -> Message | Gap | dict[str, Any]:
        if match := _EXACT.fullmatch(text):
            return Message.of(self._channel, match[1], int(match[2]), match[3])
        frame: dict[str, Any] = _parse(text)
        if frame["type"] == "message":
            return Message.of(self._channel, frame["position"], frame["time"], json.dumps(frame["data"]))
        return Gap(*map(frame.__getitem__, Gap._fields)) if frame["type"] == "gap" else frame


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


def _post(address: str, headers: dict[str, str], body: bytes, seconds: float) -> str:
    parts = urlsplit(address)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    with contextlib.closing(kind(parts.hostname or "", parts.port, timeout=seconds)) as connection:
        try:
            connection.request("POST", parts.path, body, headers | {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(error) from None
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        return str(_parse(text.decode())["position"])
    raise _refused(answer.status, text, answer.getheader("Retry-After", ""))


def _unreachable(error: Exception) -> ClientError:
    return ClientError(str(error) or "no answer in time", passes=not isinstance(error, ValueError))  # a certificate


def _refused(status: int, body: bytes, retry_after: str) -> ClientError:
    try:
        problem = _parse(body.decode())
        detail, code, pointer = str(problem["detail"]), str(problem["code"]), problem.get("pointer")
    except (ValueError, TypeError, KeyError, RecursionError):
        detail, code, pointer = f"the answer was HTTP status {status}", None, None
    passes = status in PASSING_STATUSES or status >= http.HTTPStatus.INTERNAL_SERVER_ERROR
    error = ClientError(detail, status=status, code=code, passes=passes)
    seconds = float(retry_after) if re.fullmatch(r"[0-9]{1,9}", retry_after) else 0.0
    with contextlib.suppress(ValueError, OverflowError):
        seconds = seconds or email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
    error.pointer, error.wait = pointer, min(max(seconds, 0.0), _LONGEST_WAIT)
    return error


def _address(url: str, path: str, *, socket: bool = False) -> str:
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in {"http", "https", "ws", "wss"} and parts.hostname and parts.port != 0:
            scheme = ("ws" if socket else "http") + "s" * (parts.scheme in {"https", "wss"})
            return f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/{quote(path, '/:')}"
    msg = f"{url!r} is not a server's address: expected http://host:port"
    raise ClientError(msg)


def _headers(token: str | None, idempotency_key: str | None = None) -> dict[str, str]:
    headers = {"Authorization": token and f"Bearer {token}", "Idempotency-Key": idempotency_key}
    if not all(value.isascii() and value.isprintable() for value in headers.values() if value):
        msg = "a key and a token may hold visible ASCII characters only"
        raise ClientError(msg)
    return {name: value for name, value in headers.items() if value}


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) <= 4300 else float(digits)  # noqa: PLR2004 — int() takes no more


def _parse(text: str) -> Any:  # noqa: ANN401 — JSON
    """Return the value of a JSON text (RFC 8259); raise ValueError, or RecursionError if it is nested too deep."""
    return json.loads(text, parse_int=_number, parse_constant=int)  # which takes no NaN

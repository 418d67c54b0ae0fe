"""A client of the fuzz: plays a script, and tells what is wrong with what it was answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from tests.support.fuzz.scripts import Script
from tests.support.load_client import BrokenError, Frames
from tests.support.wire import BINARY, CLOSE, PING, PONG, TEXT, close, frame, request

PATIENCE = 20.0
"""Seconds within which everything is answered."""

_UNREAD = 0.5
"""Seconds for which a client sends that does not read."""

_NO_CODE = 1005
_BUG = 1011
_LOST = 1006

_DOCUMENT = Path(__file__).parents[3] / "docs" / "codes.md"
CODES = {int(code) for code in re.findall(r"\b(?:1|4)\d{3}\b", _DOCUMENT.read_text(encoding="utf-8"))} - {_BUG, _LOST}
"""The close codes of the docs but those of a bug and of a lost connection."""

_ANSWERS = ("published", "subscribed", "unsubscribed", "error")


class WrongError(Exception):
    """The server did something that it must not do."""


class Client:
    """One connection; what comes is judged at once. ``on_text`` is told of every text frame."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_text: Callable[[dict[str, Any]], None],
        *,
        speaks_v1: bool,
        is_echo: bool,
    ) -> None:
        self.pongs: set[bytes] = set()
        self.answered: Counter[int] = Counter()
        """How often each integer id was answered."""
        self.code: int | None = None
        """The server's close code."""
        self.ended = False
        self._reader = reader
        self._writer = writer
        self._on_text = on_text
        self._frames = Frames()
        self._speaks_v1 = speaks_v1
        self._is_echo = is_echo
        self._news = asyncio.Event()

    @classmethod
    async def open(
        cls,
        port: int,
        path: str,
        subprotocol: str | None,
        on_text: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> Client:
        """Connect and open a WebSocket."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        client = cls(reader, writer, on_text, speaks_v1=subprotocol is not None, is_echo=path == "/echo")
        writer.write(request(path, add=(f"Sec-WebSocket-Protocol: {subprotocol}",) if subprotocol else ()))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        if not head.startswith(b"HTTP/1.1 101 "):
            _wrong(f"the handshake was answered {head!r}")
        return client

    @property
    def is_over(self) -> bool:
        """Whether the server has closed, or the connection has ended."""
        return self.ended or self.code is not None

    async def send(self, data: bytes) -> None:
        """Send, and wait for room; what comes after the end is no error."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    async def listen(self) -> None:
        """Read until the end. Raises :class:`WrongError` for what no server may send."""
        try:
            while data := await self._reader.read(65536):
                for opcode, payload in self._frames.feed(data):
                    self._receive(opcode, payload)
                self._news.set()
        except ConnectionError:
            pass
        except BrokenError as error:
            _wrong(str(error))
        finally:
            self.ended = True
            self._news.set()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until the condition holds. Raises :class:`WrongError` with ``what`` that is, when it takes too long."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            _wrong(f"{what}: not within {PATIENCE:g} s")

    def end(self, *, cut: bool = False) -> None:
        """Close the connection, or cut it."""
        link: socket.socket | None = self._writer.get_extra_info("socket")
        if cut and link is not None and not self._writer.is_closing():
            with contextlib.suppress(OSError):
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def _receive(self, opcode: int, payload: bytes) -> None:
        if self.code is not None:
            _wrong(f"a frame of opcode {opcode} follows a close")
        if opcode == TEXT:
            self._read_text(payload)
        elif opcode == PONG:
            self.pongs.add(payload)
        elif opcode == CLOSE:
            self.code = int.from_bytes(payload[:2], "big") if payload else _NO_CODE
        elif opcode != PING and not (opcode == BINARY and self._is_echo):
            _wrong(f"a frame of opcode {opcode}: {payload[:100]!r}")

    def _read_text(self, payload: bytes) -> None:
        try:
            text = payload.decode()
            if self._is_echo:
                return
            value = json.loads(text, parse_constant=_refuse, parse_int=_integer)
        except ValueError as error:
            _wrong(f"a text that is no JSON ({error}): {payload[:200]!r}")
        if not self._speaks_v1:
            return
        if not isinstance(value, dict):
            _wrong(f"a text that is no object: {payload[:200]!r}")
        identifier = value.get("id")
        if value.get("type") in _ANSWERS and type(identifier) is int:
            self.answered[identifier] += 1
        self._on_text(value)


async def play(port: int, script: Script) -> int | None:
    """Play a script; return the close code, if there was one. Raises :class:`WrongError`."""
    client = await Client.open(port, script.path, script.subprotocol)
    if not script.reads:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_UNREAD):
                await _send_all(client, script)
        client.end(cut=True)
        return None
    listening = asyncio.create_task(client.listen())
    try:
        await _send_all(client, script)
        if script.ending != "cut":
            await _finish(client, script)
        if listening.done():
            listening.result()
    finally:
        client.end(cut=script.ending == "cut")
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    return client.code


async def _send_all(client: Client, script: Script) -> None:
    for segment in script.segments:
        if client.is_over:
            return
        await client.send(segment)
        await asyncio.sleep(0)


async def _finish(client: Client, script: Script) -> None:
    """Wait for what has to come, then for the close."""
    if script.ending == "live":
        await client.send(frame(PING, b"last"))
        await client.until(lambda: client.is_over or b"last" in client.pongs, "the pong of the last ping")
        await client.until(lambda: client.is_over or script.ids <= client.answered.keys(), "an answer to every id")
        if twice := [identifier for identifier in script.ids if client.answered[identifier] > 1]:
            _wrong(f"ids {twice} were answered more than once")
        await client.send(close(script.code))
    await client.until(lambda: client.is_over, "the close")
    if client.code is None:
        _wrong("the connection ended without a close")
    if client.code not in CODES | {script.code, _NO_CODE}:
        _wrong(f"closed with {client.code}")


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) < 30 else digits


def _refuse(name: str) -> NoReturn:
    msg = f"{name} is not JSON"
    raise ValueError(msg)


def _wrong(what: str) -> NoReturn:
    raise WrongError(what)

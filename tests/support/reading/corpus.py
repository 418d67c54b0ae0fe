"""The corpus of requests in ``tests/server/corpus``: bytes, and what the server is to make of them.

Each line of a file is a JSON object with ``name``, ``sent`` and ``verdicts``. ``sent``, a target and a body are text
that means bytes (latin-1), or a list of such texts and of ``[text, times]``. Each verdict is one right outcome.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parents[2] / "server" / "corpus"

ENDS = ("open", "closed", "refused", "waits", "switched")
"""What comes after the messages of an entry.

``open``: the connection waits for the next request. ``closed``: it was closed, as asked. ``refused``: the next
request was refused and the connection closed. ``waits``: a request is not complete. ``switched``: it is a WebSocket.
"""

BEHIND = b"GET /behind HTTP/1.1\r\nHost: a\r\n\r\n"
"""An ordinary request, sent behind an entry."""


class Message(NamedTuple):
    """One request as a party understood it; ``headers`` are end-to-end ones, names in lower case."""

    method: str
    target: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class Verdict(NamedTuple):
    """What is answered, and then what happens; ``statuses`` are those that may refuse."""

    messages: tuple[Message, ...]
    end: str
    statuses: tuple[int, ...]


class Entry(NamedTuple):
    """One line of the corpus; ``topic`` is the name of its file."""

    topic: str
    name: str
    sent: bytes
    verdicts: tuple[Verdict, ...]

    @property
    def is_finite(self) -> bool:
        """Whether a request that follows is read as one by whoever accepts the entry."""
        return all(verdict.end != "waits" for verdict in self.verdicts)


TOPICS = sorted(path.stem for path in FOLDER.glob("*.jsonl"))


@cache
def entries() -> tuple[Entry, ...]:
    """Return the whole corpus."""
    return tuple(
        _entry(path.stem, json.loads(line))
        for path in sorted(FOLDER.glob("*.jsonl"))
        for line in path.read_text().splitlines()
    )


def _entry(topic: str, line: dict[str, Any]) -> Entry:
    return Entry(topic, line["name"], _sent(line["sent"]), tuple(map(_verdict, line["verdicts"])))


def _verdict(verdict: dict[str, Any]) -> Verdict:
    messages = tuple(
        Message(message["method"], _sent(message["target"]).decode("latin-1"), _sent(message.get("body", "")))
        for message in verdict["messages"]
    )
    return Verdict(messages, verdict["end"], tuple(verdict.get("statuses", ())))


def _sent(parts: str | list[str | list[Any]]) -> bytes:
    if isinstance(parts, str):
        return parts.encode("latin-1")
    return b"".join(
        part.encode("latin-1") if isinstance(part, str) else part[0].encode("latin-1") * part[1] for part in parts
    )

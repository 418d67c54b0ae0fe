"""What a server answered on one connection, response by response."""

from __future__ import annotations

import re
from typing import NamedTuple

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_SWITCHING = 101


class Answer(NamedTuple):
    """One response; interim ones are left out."""

    status: int
    body: bytes


def parse(received: bytes) -> list[Answer]:
    """Take responses apart, none of which may be in chunks. What follows a 101 is left out.

    A response without a length has no body: HEAD is so answered. Fails unless the last one is complete.
    """
    answers = []
    at = 0
    while at < len(received):
        match = _STATUS.match(received, at)
        end = received.find(b"\r\n\r\n", at) + 4
        assert match is not None and end >= 4, f"no response at byte {at} of {received!r}"  # noqa: PT018 — one thought
        status = int(match[1])
        length = _LENGTH.search(received, at, end)
        at = end + (int(length[1]) if length else 0)
        assert at <= len(received), f"an incomplete response ends {received!r}"
        if status >= 200 or status == _SWITCHING:
            answers.append(Answer(status, received[end:at]))
        if status == _SWITCHING:
            break
    return answers

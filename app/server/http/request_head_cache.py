"""Request heads that were parsed before. A publisher sends the same head with every message."""

from __future__ import annotations

from typing import Generic, TypeVar

MOST_HEADS = 500
LONGEST_HEAD = 4096
"""The most remembered request heads, and the most bytes of one."""

_END = b"\r\n\r\n"

T = TypeVar("T")


class RequestHeadCache(Generic[T]):
    """Maps the bytes of some hundred request heads to their parsed form: the same bytes mean the same.

    It holds parsed heads, and nothing that can change, such as the caller's identity.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[T, int]] = {}
        """By head, its parsed form and the length of the body that it announces."""

    def find(self, data: bytes) -> tuple[T, bytes] | None:
        """Return the parsed head and the body, if ``data`` is one whole request with a known head."""
        begin = data.find(_END) + len(_END)
        known = self._known.get(data[:begin])
        if known is None or len(data) - begin != known[1]:
            return None
        return known[0], data[begin:]

    def remember(self, data: bytes, parsed: T, body: bytes) -> None:
        """Remember the parsed head of ``data``, if ``data`` is one whole request that ends with ``body``."""
        begin = data.find(_END) + len(_END)
        if len(data) - begin == len(body) and begin <= LONGEST_HEAD:
            if len(self._known) >= MOST_HEADS:
                self._known.clear()
            self._known[data[:begin]] = parsed, len(body)

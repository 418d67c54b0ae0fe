"""Request heads that were parsed before: a publisher sends the same one with every message."""

from __future__ import annotations

from typing import Generic, TypeVar

MOST_HEADS = 500
LONGEST_HEAD = 4096
"""Request heads that are remembered, and bytes that one of them may have."""

_END = b"\r\n\r\n"

T = TypeVar("T")


class RequestHeadCache(Generic[T]):
    """What the heads of some hundred requests say, by their bytes: the same bytes mean the same.

    It holds what was parsed and nothing that can change, such as who the caller is.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[T, int]] = {}
        """What heads were parsed to, and how many bytes of a body they announce."""

    def find(self, data: bytes) -> tuple[T, bytes] | None:
        """Return what the head says, and the body, where ``data`` is one request with a known head."""
        begin = data.find(_END) + len(_END)
        known = self._known.get(data[:begin])
        if known is None or len(data) - begin != known[1]:
            return None
        return known[0], data[begin:]

    def remember(self, data: bytes, parsed: T, body: bytes) -> None:
        """Remember what ``data`` was parsed to, if it is one request that ends with ``body``."""
        begin = data.find(_END) + len(_END)
        if len(data) - begin == len(body) and begin <= LONGEST_HEAD:
            if len(self._known) >= MOST_HEADS:
                self._known.clear()
            self._known[data[:begin]] = parsed, len(body)

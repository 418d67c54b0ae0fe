"""Why a token is refused."""

from __future__ import annotations

from typing import NoReturn


class TokenError(Exception):
    """The token is not good; the text says why, and shows nothing of it."""


def refuse(reason: str) -> NoReturn:
    """Raise :class:`TokenError`."""
    raise TokenError(reason)

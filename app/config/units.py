"""Sizes in bytes and durations in seconds, as people write them."""

from __future__ import annotations

import re

SIZES = {"B": 1, "kB": 1000, "KiB": 1024, "MB": 1000**2, "MiB": 1024**2}
"""Bytes of each unit."""

DURATIONS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
"""Seconds of each unit."""

SIZE_PATTERN = rf"^[0-9]{{1,12}} ?({'|'.join(SIZES)})?$"
DURATION_PATTERN = rf"^[0-9]{{1,12}} ?({'|'.join(DURATIONS)})?$"


def size(text: str) -> int | None:
    """Return the bytes that ``64KiB`` or ``500`` means, or None."""
    return _amount(text, SIZE_PATTERN, SIZES)


def duration(text: str) -> int | None:
    """Return the seconds that ``24h`` or ``90`` means, or None."""
    return _amount(text, DURATION_PATTERN, DURATIONS)


def write_size(amount: int) -> str:
    """Write bytes with the largest binary unit that leaves no fraction."""
    return _write(amount, {unit: SIZES[unit] for unit in ("B", "KiB", "MiB")})


def write_duration(amount: int) -> str:
    """Write seconds with the largest unit that leaves no fraction."""
    return _write(amount, DURATIONS)


def _amount(text: str, pattern: str, units: dict[str, int]) -> int | None:
    match = re.fullmatch(pattern, text, re.ASCII)
    return int(text.removesuffix(match[1] or "")) * units.get(match[1], 1) if match else None


def _write(amount: int, units: dict[str, int]) -> str:
    unit = max((unit for unit in units if amount % units[unit] == 0), key=units.__getitem__)
    return f"{amount // units[unit]}{unit}"

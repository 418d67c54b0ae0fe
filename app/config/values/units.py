"""Sizes in bytes and durations in seconds, as people write them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from app.config.patterns import number, whole
from app.core.limits.rates import UNITS

SIZES = {"B": 1, "kB": 1000, "KiB": 1024, "MB": 1000**2, "MiB": 1024**2}
"""Bytes of each unit."""

DURATIONS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
"""Seconds of each unit."""

PERIODS = {unit: seconds for seconds, unit in UNITS.items()}
"""Seconds of each unit of a rate."""

COUNT: dict[str, int] = {}
"""No units: a plain number."""

_RATE = re.compile(rf"0*([0-9]{{1,12}})/([{''.join(PERIODS)}])", re.ASCII)
_TEXT = re.compile(r"0*([0-9]{1,12})( ?)([A-Za-z]*)", re.ASCII)


def amount(text: str, units: Mapping[str, int]) -> int | None:
    """Return what ``64KiB`` or ``500`` means in these units; None for anything else."""
    match = _TEXT.fullmatch(text)
    if match is None or (match[3] and match[3] not in units) or (match[2] and not units):
        return None
    return int(match[1]) * units.get(match[3], 1)


def pattern(units: Mapping[str, int], least: int, most: int) -> str:
    """Return the pattern of the texts whose :func:`amount` is from ``least`` to ``most``."""
    written = [rf"{number(-(-least // size), most // size)} ?{unit}" for unit, size in units.items() if most >= size]
    bare = number(least, most) + (" ?" if units else "")
    return whole("|".join([bare, *written]))


def rate(text: str) -> tuple[int, int] | None:
    """Return what ``10/s`` means: how many, and in how many seconds; None for anything else."""
    match = _RATE.fullmatch(text)
    return None if match is None else (int(match[1]), PERIODS[match[2]])


def rate_pattern(most: int) -> str:
    """Return the pattern of the texts that are a :func:`rate` of 1 to ``most``."""
    return whole(rf"{number(1, most)}/[{''.join(PERIODS)}]")


def write_size(amount: int) -> str:
    """Return bytes in the largest binary unit that leaves no fraction."""
    return _write(amount, {unit: SIZES[unit] for unit in ("B", "KiB", "MiB")})


def write_duration(amount: int) -> str:
    """Return seconds in the largest unit that leaves no fraction."""
    return _write(amount, DURATIONS) if amount else "0s"


def _write(amount: int, units: dict[str, int]) -> str:
    unit = max((unit for unit in units if amount % units[unit] == 0), key=units.__getitem__)
    return f"{amount // units[unit]}{unit}"

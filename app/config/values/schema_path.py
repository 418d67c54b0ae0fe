"""The path of a schema file: in the folder of channels.yaml, or below it."""

from __future__ import annotations

from app.config import patterns

_STEP = r"(?!\.\.?(?:/|(?![\s\S])))[^/\\\x00-\x1f\x7f]{1,255}"

PATTERN = patterns.whole(rf"(?![\s\S]*\$\{{)(?:\./)?{_STEP}(?:/{_STEP}){{0,15}}")
"""Pattern of a path that leads nowhere else. There may be a symbolic link, as in a ConfigMap of Kubernetes."""


def refusal(path: str) -> str | None:
    """Return why this is no path of a schema file; None if it is one."""
    if patterns.fits(PATTERN, path):
        return None
    return "must be the path of a file in the folder of channels.yaml or below it, such as schemas/order.json"

"""``${VAR}`` and ``${VAR:-default}`` in one text."""

from __future__ import annotations

import re
from collections.abc import Mapping

from app.config.patterns import NAME

_REFERENCE = re.compile(
    rf"\$(?:(?P<escaped>\$\{{)|\{{(?P<name>{NAME})(?P<default>:-[^}}]*)?\}}|(?P<broken>\{{))", re.ASCII
)


class InterpolationError(Exception):
    """A reference that cannot be replaced; ``str()`` says why, and never shows a value."""


def named(text: str) -> tuple[str, ...]:
    """Return the variables that ``text`` refers to, each once."""
    return tuple(dict.fromkeys(match["name"] for match in _REFERENCE.finditer(text) if match["name"]))


def used(text: str, variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return the variables whose values :func:`interpolate` puts into ``text``, each once."""
    return tuple(name for name in named(text) if variables.get(name))


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Replace the references in ``text``, once: references inside a variable's value remain.

    As in a shell, ``${VAR:-default}`` takes the default for an empty variable, too. ``$${`` is a
    literal ``${``. Raises :class:`InterpolationError`.
    """
    return _REFERENCE.sub(lambda match: _value(match, variables), text)


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    name, default = match["name"], match["default"]
    if match["escaped"]:
        return "${"
    if match["broken"]:
        msg = "write ${NAME} or ${NAME:-default}, and $${ for a literal ${"
        raise InterpolationError(msg)
    if default is not None:
        return variables.get(name) or default.removeprefix(":-")
    if name not in variables:
        msg = f"the variable {name} is not set: set it, or give a default with ${{{name}:-…}}"
        raise InterpolationError(msg)
    return variables[name]

"""Turns bytes into the node tree of one YAML document, or says where they stop being YAML."""

from __future__ import annotations

from typing import Any

import yaml

from app.config.diagnostics import ConfigError, Diagnostic
from app.config.yaml.plain_words import explained

MAX_BYTES = 1024 * 1024
"""The largest file that is read."""

NULL = "tag:yaml.org,2002:null"
"""The tag of an empty value."""

EXPLICIT = "explicit "
"""Prefix of the tag of a node whose tag is written in the file."""

_MAX_DEPTH = 20


class _Loader(yaml.SafeLoader):
    """Composes nodes to a limited depth, and remembers which tags the file writes."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401 — as in PyYAML
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if self.depth == _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {_MAX_DEPTH}", problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        if node is not None and getattr(event, "tag", None) is not None:
            node.tag = EXPLICIT + str(event.tag)
        return node


def compose(content: bytes, file: str) -> yaml.Node:
    """Return the root node; raise :class:`ConfigError` if there is none."""
    text = _decode(content, file)
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        diagnostic = _syntax_diagnostic(error, text, file)
    except yaml.reader.ReaderError as error:
        message = f"the character {chr(error.character)!a} is not allowed in a YAML file: remove it"
        diagnostic = _diagnostic_at(text[: error.position], file, message)
    except (ValueError, ArithmeticError):
        # PyYAML's scanner does not check the digits of "\UFFFFFFFF" and of %YAML 1.99…9.
        diagnostic = Diagnostic(
            file, 1, 1, "", "this is not YAML: a number in an escape or a directive is far too large"
        )
    else:
        if node is not None and node.tag != NULL:
            return node
        diagnostic = Diagnostic(file, 1, 1, "", "the file is empty: declare at least one channel under 'channels:'")
    raise ConfigError([diagnostic])


def _decode(content: bytes, file: str) -> str:
    if len(content) > MAX_BYTES:
        diagnostic = Diagnostic(
            file, 1, 1, "", f"the file has more than {MAX_BYTES} bytes (1 MiB): is this the right one?"
        )
        raise ConfigError([diagnostic])
    try:
        return content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before, byte = content[: error.start].decode(), content[error.start]
    message = f"the file is not UTF-8 (byte 0x{byte:02x}): save it as UTF-8"
    raise ConfigError([_diagnostic_at(before.removeprefix("\ufeff"), file, message)])


def _diagnostic_at(before: str, file: str, message: str) -> Diagnostic:
    lines = before.split("\n")
    return Diagnostic(file, len(lines), len(lines[-1]) + 1, "", message)


def _syntax_diagnostic(error: yaml.MarkedYAMLError, text: str, file: str) -> Diagnostic:
    mark, message = explained(error, text)
    return Diagnostic(file, mark.line + 1 if mark else 1, mark.column + 1 if mark else 1, "", message)

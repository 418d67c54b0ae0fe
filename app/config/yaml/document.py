"""Turns YAML nodes into plain data that remembers where everything is.

It walks the node tree instead of letting PyYAML construct objects: nodes have marks, duplicate keys
are still there, and a key such as ``on`` is still the text that was written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from yaml.error import Mark

from app.config.diagnostics import Diagnostic, key_path, quoted
from app.config.yaml.interpolation import InterpolationError, interpolate, named, used
from app.config.yaml.syntax import EXPLICIT, NULL, compose

Location = Sequence[str | int]

_BOOLEAN = "tag:yaml.org,2002:bool"
_INTEGER = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
_READS_AS = {
    NULL: "nothing (null)",
    _BOOLEAN: "a boolean",
    _INTEGER: "a number",
    _FLOAT: "a number",
    "tag:yaml.org,2002:timestamp": "a date",
}
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,14})", re.ASCII)
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]{0,14}))\.0*", re.ASCII)
"""A whole number written with a point: JSON Schema takes it for an integer."""

_NEWER_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|0o[0-7]+", re.ASCII)


class Interpolated(str):
    """Text that came from ``${…}``: it may be a number or a boolean, and it may be a secret."""

    __slots__ = ()


class Unquoted(str):
    """Text without quotes that YAML reads as something else."""

    __slots__ = ("reads_as",)
    reads_as: str

    def __new__(cls, text: str, reads_as: str) -> Unquoted:  # noqa: PYI034 — not meant to be derived from
        """Keep the text as written, and what YAML reads it as."""
        self = super().__new__(cls, text)
        self.reads_as = reads_as
        return self


class Document:
    """The data of one file, its diagnostics so far, and the line and column of everything in it."""

    def __init__(self, content: bytes, file: str, variables: Mapping[str, str]) -> None:
        """Raise :class:`ConfigError` if the content is not one YAML document."""
        self.file = file
        self.diagnostics: list[Diagnostic] = []
        self.variables: set[str] = set()
        """The variables that the file refers to."""
        self._variables = variables
        self._values: dict[yaml.Node, Any] = {}
        # The nodes of key and value for each step down the tree.
        self._entries: dict[yaml.Node, dict[str | int, tuple[yaml.Node, yaml.Node]]] = {}
        self._open: set[yaml.Node] = set()
        self._unreadable: set[yaml.Node] = set()
        self._root = compose(content, file)
        self.data: Any = self._value(self._root, ())

    def add(self, location: Location, message: str, *, at_key: bool = False) -> None:
        """Add a diagnostic, unless its place was reported as unreadable already.

        It points at the value at ``location``, or at the key; if the file does not have that, at the
        nearest enclosing value.
        """
        node = self._find(location, at_key=at_key)
        if node not in self._unreadable:
            is_text = not at_key and node.tag == _TEXT
            self._add(node.start_mark, location, message, used(node.value, self._variables) if is_text else ())

    def _add(self, mark: Mark, location: Location, message: str, variables: tuple[str, ...] = ()) -> None:
        place = (mark.line + 1, mark.column + 1, key_path(location))
        self.diagnostics.append(Diagnostic(self.file, *place, message, variables))

    def _find(self, location: Location, *, at_key: bool) -> yaml.Node:
        node = key = self._root
        for part in location:
            entry = self._entries.get(node, {}).get(part)
            if entry is None:
                return node
            key, node = entry
        return key if at_key else node

    def _value(self, node: yaml.Node, location: Location) -> Any:  # noqa: ANN401 — any data
        # An alias is the same node as its anchor. Each node is read once, so aliases of aliases cost nothing.
        if node in self._values:
            return self._values[node]
        if node in self._open:
            self._refuse(node, location, "an anchor cannot be inside itself: write the value out")
            return None
        self._open.add(node)
        if node.tag.startswith(EXPLICIT):
            tag = quoted(node.tag.removeprefix(EXPLICIT))
            self._refuse(node, location, f"tags are not supported: remove {tag}, and quote what should be text")
        self._values[node] = value = self._convert(node, location)
        self._open.remove(node)
        return value

    def _refuse(self, node: yaml.Node, location: Location, message: str) -> None:
        self._add(node.start_mark, location, message)
        self._unreadable.add(node)

    def _convert(self, node: yaml.Node, location: Location) -> Any:  # noqa: ANN401 — as above
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            self._entries[node] = {index: (item, item) for index, item in enumerate(node.value)}
            return [self._value(item, (*location, index)) for index, item in enumerate(node.value)]
        if node.tag == _TEXT:
            return self._text(node, location)
        return _plain(node)

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        data: dict[str, Any] = {}
        entries = self._entries.setdefault(node, {})
        for key_node, value_node in node.value:
            key = self._key(key_node, location)
            # Read even if the key is refused: an alias elsewhere may need the value.
            value = self._value(value_node, location if key is None else (*location, key))
            if key in entries:
                message = f"this key is already on line {entries[key][0].start_mark.line + 1}: keep one of them"
                self._add(key_node.start_mark, (*location, key), message)
            elif key is None:
                # A key that seems to be missing here may be the one that could not be read.
                self._unreadable.add(node)
            else:
                entries[key] = (key_node, value_node)
                data[key] = value
        return data

    def _key(self, node: yaml.Node, location: Location) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._value(node, location)
            message = 'a key must be text; text that starts with { or [ goes in "quotes"'
        elif node.tag == _MERGE:
            message = "merge keys (<<) are not supported: use an alias for the whole mapping, or defaults"
        elif node.tag.startswith(EXPLICIT):
            message = "tags are not supported: remove the tag, and quote the key"
        else:
            reads_as = _reads_as(node)
            return Unquoted(node.value, reads_as) if reads_as else str(node.value)
        self._add(node.start_mark, location, message)
        return None

    def _text(self, node: yaml.Node, location: Location) -> str | None:
        text = str(node.value)
        if "${" not in text:
            return text
        self.variables.update(named(text))
        try:
            return Interpolated(interpolate(text, self._variables))
        except InterpolationError as error:
            self._refuse(node, location, str(error))
            return None


def _plain(node: yaml.Node) -> bool | int | str | None:
    if node.tag == NULL:
        return None
    if node.tag == _BOOLEAN:
        return str(node.value).lower() in {"yes", "true", "on"}
    # YAML 1.1 reads 010 as eight and 24:00 as 1440. Only unambiguous numbers count as numbers here.
    if node.tag == _INTEGER and _DECIMAL.fullmatch(node.value):
        return int(node.value)
    if node.tag == _FLOAT and (number := _WHOLE.fullmatch(node.value)):
        return int(number[1])
    return Unquoted(node.value, _READS_AS.get(node.tag, "something other than text"))


def _reads_as(node: yaml.ScalarNode) -> str | None:
    if node.style is not None:
        return None
    # Editors use YAML 1.2, where 1e3 and 0o17 are numbers; PyYAML reads them as text.
    newer = "a number" if _NEWER_NUMBER.fullmatch(node.value) else None
    return newer if node.tag == _TEXT else _READS_AS.get(node.tag, "something other than text")

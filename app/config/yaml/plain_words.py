"""Says in plain words what PyYAML found: its own words are those of YAML's grammar."""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml
from yaml.error import Mark

_QUOTE = "put the text in quotes"

_WORDS: Mapping[str, str] = {
    r"character '\\t'": "a tab where only spaces are allowed: indent with spaces",
    "but found another document": "this is more than one YAML document: remove the line ---",
    "expected '<document start>'":
        "the YAML document has ended above this line: remove the line ..., or a line that begins with %",
    r"expected ',' or '([}\]])', but got '<stream end>'":
        r"the mapping or list that begins here is never closed: write \1 at its end",
    r"expected ',' or '([}\]])'":
        r"a comma is missing here, or the \1 that ends what was begun in line {line}",
    "expected <block end>, but found '<block (?:mapping|sequence) start>'":
        "this line is indented more than the entries before it, and belongs to none of them: begin it in their column",
    "expected <block end>, but found '[?-]'":
        "a list and a mapping are mixed here: begin all of these lines with '- ', or none",
    r"expected <block end>, but found '([}\]])'":
        r"there is a \1 with nothing to close: remove it, or add what opens it",
    "expected <block end>": "this does not belong to what is before it: check quotes and indentation",
    "mapping values are not allowed":
        "there cannot be a ': ' here: put a text that holds one in quotes, and end the key before it with a colon",
    "could not find expected ':'": "a key without a colon: write 'key: value'",
    "quoted scalar, found unexpected end": "the quote that begins here is never closed",
    "quoted scalar, found unexpected document": "a quote is not closed before this line",
    "unknown escape character '(.)'": r"\\\1 is no escape in double quotes: write \\\\\1, or use single quotes",
    r"expected escape sequence of (\d)":
        r"an escape needs \1 hexadecimal digits here: write \\\\ for a backslash, or use single quotes",
    "while scanning an alias": f'a * begins an alias: {_QUOTE}, as in "*"',
    "while scanning an anchor": f"a & begins an anchor: {_QUOTE}",
    "undefined alias '(.*)'": rf"the alias *\1 has no anchor &\1: {_QUOTE}, or name a value before it",
    "duplicate anchor '(.*)'; first": r"the anchor &\1 is there twice: give one of them another name",
    "character '(.)' that cannot start": rf"no text begins with \1 in YAML: {_QUOTE}",
    "sequence entries are not allowed": "a list cannot begin here: begin it on a line of its own",
    r"\btag\b": f"tags are not supported: {_QUOTE}",
    "block scalar": "a text on lines of its own begins with | or >, and nothing more on that line",
    "directive": "a line that begins with % is a directive: remove it, or put it in quotes",
}  # fmt: skip
"""What is wrong, by a pattern in PyYAML's words; the first that is found counts."""

_FROM_BEGINNING = re.compile("<stream end>|quoted scalar, found unexpected end|could not find expected ':'")
"""Problems that PyYAML finds too late: people look for them where something was begun."""

_BRACES_IN_TEXT = re.compile(r"[\w.:$-]\{")


def explained(error: yaml.MarkedYAMLError, text: str) -> tuple[Mark | None, str]:
    """Return the place of a syntax error, and what is wrong and what to do."""
    found = ", ".join(part for part in (error.context, error.problem) if part) or "unreadable"
    begun = error.context_mark
    mark = begun if begun and _FROM_BEGINNING.search(found) else error.problem_mark or begun
    message = _plain(found, begun)
    lines = text.splitlines()
    if mark and mark.line < len(lines) and _BRACES_IN_TEXT.search(lines[mark.line]) and "document" not in found:
        message += '; text that holds { or } goes in "quotes" here'
    return mark, message if message.startswith("this is") else f"this is not YAML: {message}"


def _plain(found: str, begun: Mark | None) -> str:
    for pattern, words in _WORDS.items():
        if match := re.search(pattern, found):
            return match.expand(words).replace("{line}", str(begun.line + 1 if begun else 1))
    return found

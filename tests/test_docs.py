"""The documentation is true: every code, command and route that exists is described."""

import re
from pathlib import Path

import pytest

from app.core.errors import CLOSE_CODES, AbideError, CloseCode
from app.web.problems import STATUSES

ROOT = Path(__file__).parents[1]
CODES = (ROOT / "docs/codes.md").read_text()
ROWS = {row[0]: row[1:] for row in re.findall(r"^\| `(\w+)` \| (\S+) \| (\S+) \|", CODES, re.MULTILINE)}


DASH = "\N{EN DASH}"


def every_error(kind: type[AbideError] = AbideError) -> set[str]:
    """Return the codes of the whole tree."""
    return {kind.code}.union(*(every_error(child) for child in kind.__subclasses__()))


def test_every_code_is_documented_and_no_other() -> None:
    """Codes in the docs are those of the tree of errors and of the routes."""
    assert set(ROWS) == every_error() | set(STATUSES)


@pytest.mark.parametrize("code", sorted(ROWS))
def test_a_code_has_the_documented_status_and_close_code(code: str) -> None:
    """Each code's row names its HTTP status and its close code, or a dash."""
    status, close = ROWS[code]
    assert status == str(STATUSES.get(code, DASH))
    assert close == str(int(CLOSE_CODES[code]) if code in CLOSE_CODES else DASH)


def test_every_close_code_is_documented() -> None:
    """Each close code that the server uses stands in the docs."""
    assert [code.name for code in CloseCode if not re.search(rf"\b{int(code)}\b", CODES)] == []


def test_every_error_has_an_answer() -> None:
    """Each error that can be raised has an HTTP status or a close code."""
    assert every_error() - set(STATUSES) - set(CLOSE_CODES) == set()

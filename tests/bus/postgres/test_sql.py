"""The SQL of the server: all of it in files, each of which says what it is."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.bus import postgres
from app.bus.postgres.sql import query

ROOM = Path(postgres.__file__).parent
STATEMENTS = sorted((ROOM / "sql").glob("*.sql"))
VERB = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|LOCK|BEGIN|COMMIT|ROLLBACK|SET|WITH)\b")


def texts(path: Path) -> Iterator[str]:
    """Yield the texts in a module that are no docstrings."""
    for node in ast.walk(ast.parse(path.read_text())):
        for child in ast.iter_child_nodes(node):
            is_docstring = isinstance(node, ast.Expr)
            if isinstance(child, ast.Constant) and isinstance(child.value, str) and not is_docstring:
                yield child.value


@pytest.mark.parametrize("path", STATEMENTS, ids=lambda path: path.stem)
def test_each_statement_says_what_it_takes_and_returns_and_who_calls_it(path: Path) -> None:
    """Statement begins with a comment that names its parameters, its result and the modules that ask for it."""
    comment = re.match(r"(?:--[^\n]*\n)+", path.read_text())
    assert comment
    head = re.sub(r"\n--\s*", " ", comment[0])
    found = re.fullmatch(r"-- \S.* Parameters: (.+) Returns: (.+) Called by: (.+?)\s*", head)
    assert found, head
    users = {user.relative_to(ROOM).as_posix() for user in ROOM.rglob("*.py") if path.stem in texts(user)}
    assert set(found[3].split(", ")) <= users
    assert set(re.findall(r"\$\d+", query(path.stem))) <= set(re.findall(r"\$\d+", found[1])) or " to " in found[1]


@pytest.mark.parametrize("path", sorted(ROOM.rglob("*.py")), ids=lambda path: path.relative_to(ROOM).as_posix())
def test_no_module_holds_a_statement_of_its_own(path: Path) -> None:
    """Module asks for its statements by name."""
    assert [text for text in texts(path) if VERB.match(text)] == []

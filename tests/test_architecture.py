"""The shape of the house: what rooms may import, how large its parts are, and how tests are named."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.support.processes import ROOT

APP = ROOT / "app"

MOST_MODULES = 12
MOST_LINES = 350
MOST_FUNCTION_LINES = 40
MOST_DOUBLED_NAMES = 4
FEWEST_WORDS = 4
MOST_PICTURES = 10

Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules(folder: Path) -> Iterator[Path]:
    """Yield the modules below a folder, but for what a folder has to have."""
    return (path for path in sorted(folder.rglob("*.py")) if path.name not in ("__init__.py", "__main__.py"))


def functions(path: Path) -> Iterator[Function]:
    """Yield the functions and methods of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def size(function: Function) -> int:
    """Return a function's lines, without its decorators and its docstring."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function) is None:
        return lines
    docstring = function.body[0]
    return lines - ((docstring.end_lineno or 0) - docstring.lineno + 1)


def test_examples_need_nothing_of_the_tests() -> None:
    """Examples can be copied: none of their modules imports one of the tests'."""
    imports = re.compile(r"^\s*(from|import) tests\b", re.MULTILINE)
    assert [path for path in modules(ROOT / "examples") if imports.search(path.read_text(encoding="utf-8"))] == []


def test_rooms_import_only_what_their_contracts_allow() -> None:
    """Rooms import only what their contracts allow; a new room must be given its place in them."""
    lint_imports = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run(
        [lint_imports, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_folder_has_too_many_modules() -> None:
    """Folder of app/ has at most twelve modules: a room that needs more has rooms in it."""
    counts = Counter(path.parent for path in modules(APP))
    assert {folder: count for folder, count in counts.items() if count > MOST_MODULES} == {}


def test_no_file_is_too_long() -> None:
    """Module of app/ has at most 350 lines."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules(APP)}
    assert {path: length for path, length in lengths.items() if length > MOST_LINES} == {}


def test_no_function_is_too_long() -> None:
    """Function of app/ has at most forty lines, its docstring not counted."""
    sizes = {(path, function.name): size(function) for path in modules(APP) for function in functions(path)}
    assert {function: lines for function, lines in sizes.items() if lines > MOST_FUNCTION_LINES} == {}


def test_few_modules_share_a_name() -> None:
    """Name of a module is given twice for at most four names, and never three times.

    The engines of the bus are built alike, so a name means the same in each of them.
    """
    engines = {path.parent for path in (APP / "bus").rglob("*/backend.py")}
    engines |= {folder for engine in engines for folder in engine.iterdir() if folder.is_dir()}
    engines |= {APP / "bus" / "redis" / "sessions"}
    counts = Counter(path.name for path in modules(APP) if path.parent not in engines)
    assert max(counts.values()) <= 2
    assert len([name for name, count in counts.items() if count == 2]) <= MOST_DOUBLED_NAMES


def test_every_test_is_named_by_a_sentence() -> None:
    """Test is called by a sentence of at least four words, and its docstring is another one."""
    tests = [
        (path, function)
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for function in functions(path)
        if function.name.startswith("test_")
    ]
    assert [f"{path}: {test.name}" for path, test in tests if len(test.name.split("_")) <= FEWEST_WORDS] == []
    assert [f"{path}: {test.name}" for path, test in tests if not ast.get_docstring(test)] == []


def test_no_test_looks_at_what_is_private() -> None:
    """Test takes a door: no linter's permission to go through a wall is in its files, but for a wall of asyncpg's."""
    permission = "noqa: SLF" + "001"
    permitted = {path for path in (ROOT / "tests").rglob("*.py") if permission in path.read_text(encoding="utf-8")}
    # asyncpg reads a URL without connecting by no public name.
    assert permitted <= {ROOT / "tests/bus/postgres/sessions/test_dsn.py"}


def test_processes_are_started_in_one_place() -> None:
    """Process that goes on is started by tests/support/processes.py; PostgreSQL and locust have reasons not to be."""
    starter = re.compile(r"Popen\(|create_subprocess|os\.(popen|spawn|posix_spawn)")
    files = [path for room in ("tests", "benchmarks", "loadtests") for path in (ROOT / room).rglob("*.py")]
    starters = {
        str(path.relative_to(ROOT))
        for path in files
        if "node_modules" not in path.parts and starter.search(path.read_text(encoding="utf-8"))
    }
    assert starters - {"tests/test_architecture.py"} == {
        "tests/support/processes.py",
        "tests/support/postgres.py",  # in an account of its own
        "loadtests/__main__.py",  # at the terminal that it is started from
    }


def test_words_that_paint_are_rare() -> None:
    """Words that say a thing by a picture, where the common word is shorter, are in at most ten lines."""
    picture = re.compile(r"\b(mend|stands?|lacks?)\b(?! for\b)", re.IGNORECASE)
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    sources = [path for ending in ("py", "sql", "js", "html") for path in APP.rglob(f"*.{ending}")]
    texts = [path for path in pages + sources if "swagger-ui" not in path.parts]
    lines = [line for path in texts for line in path.read_text(encoding="utf-8").splitlines() if picture.search(line)]
    assert len(lines) <= MOST_PICTURES, "\n".join(lines)


def test_the_lock_files_name_no_index() -> None:
    """Lock file names no package index, so that it installs from whichever one is configured."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in lock
    assert "--hash=sha256:" in lock

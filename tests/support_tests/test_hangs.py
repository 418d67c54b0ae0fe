"""Tests that hang: each is a failure with stacks, and none is the end of the suite."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.processes import ROOT

TESTS = """
import asyncio
import pytest
from tests.support import hangs

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
async def opened():
    yield
    print("closed")

@pytest.fixture
async def never_closed():
    yield
    await asyncio.Event().wait()

@pytest.mark.timeout(0.1)
async def test_hangs(opened):
    async with asyncio.TaskGroup() as group:
        group.create_task(inner())

async def inner():
    await asyncio.Event().wait()

async def test_works(opened):
    pass

async def test_hangs_after_a_failure(never_closed):
    hangs.GRACE = 0.5
    assert False, "a failure of its own"
"""


OPTIONS = "-p pytest_timeout -p anyio.pytest_plugin -p tests.support.hangs -o anyio_mode=auto -o timeout=60"


def test_a_hang_is_a_failure_with_stacks_and_ends_nothing_but_its_process(tmp_path: Path) -> None:
    """Asynchronous test that hangs fails alone; one that hangs when it is torn down ends its process."""
    (tmp_path / "test_hanging.py").write_text(TESTS)
    done = subprocess.run(
        (sys.executable, "-m", "pytest", "--verbose", "--capture=no", *OPTIONS.split()),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.count("closed\n") == 2, "the fixtures of what hung were not torn down"
    assert re.search(r"::test_hangs .*FAILED.*::test_works .*PASSED.*::test_hangs_after", done.stdout, re.DOTALL)
    assert re.search(r"waits in\n.*in inner\n +await asyncio.Event", done.stderr, re.DOTALL)
    assert "Timeout (0:00:00.500000)!\n" in done.stderr

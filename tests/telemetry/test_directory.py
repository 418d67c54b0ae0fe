"""The directory of the workers' numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.processes import launch

MAKE = """\
import os, sys
from app.telemetry.directory import make_directory
directory = make_directory(sys.argv[1])
if os.fork() == 0:
    sys.exit()  # a worker that ends
os.wait()  # as long as it lives, it holds the directory, too
print(directory, flush=True)
sys.stdin.read()
"""


def master(parent: Path) -> subprocess.Popen[str]:
    command, pipe = [sys.executable, "-c", MAKE, str(parent)], subprocess.PIPE
    return launch(command, os.environ, stdin=pipe, stdout=pipe, stderr=None, encoding="utf-8")


def path(process: subprocess.Popen[str]) -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().strip())


def test_the_directory_goes_with_its_process(tmp_path: Path) -> None:
    """Directory is private, outlives the workers, and is removed by the process that made it."""
    with master(tmp_path) as process:
        directory = path(process)
        assert directory.stat().st_mode & 0o777 == 0o700
        with master(tmp_path) as second:  # whose start leaves it alone, because it is in use
            assert path(second) != directory
        assert directory.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_processs_directory_is_removed_by_the_next(tmp_path: Path) -> None:
    """Directory of a process that was killed is removed by the next one that starts."""
    with master(tmp_path) as killed:
        left = path(killed)
        killed.kill()
    assert left.is_dir()
    with master(tmp_path) as process:
        assert path(process).is_dir()
        assert not left.exists()

"""Projects that use the npm package of this repository, installed from its tarball."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.support.processes import ROOT
from tests.support.programs import Program, find_or_skip, skip

_MODULES = ROOT / "tests" / "npm" / "node_modules"


class NpmProject:
    """A folder with the package installed, offline, and then with what tests/npm has, for the tests' own scripts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        npm = find_or_skip("npm")
        if not _MODULES.exists():
            skip("tests/npm/node_modules is not there: run make test")
        (folder / "package.json").write_text(json.dumps({"name": "empty", "private": True, "type": "module"}))
        packed = self._run(str(ROOT / "clients" / "js" / "pack"), str(folder)).strip()
        self._run(npm, "install", "--offline", "--no-audit", "--no-fund", "--ignore-scripts", f"./{packed}")
        self.installed = folder / "node_modules" / "abide-client"
        """The folder of the installed package."""
        self.dependencies = sorted(path.name for path in (folder / "node_modules").iterdir())
        """The names of all that was installed."""
        for module in _MODULES.iterdir():
            if not module.name.startswith("."):
                (folder / "node_modules" / module.name).symlink_to(module)

    def node(self, script: str, *arguments: str) -> Program:
        """Run a module in Node."""
        return Program(find_or_skip("node", "nodejs"), self._file("script.mjs", script), *arguments)

    def bundle(self, script: str, *options: str) -> str:
        """Return a module with JSX as one script for browsers, which sets what it exports as the global ``bundle``."""
        command = (str(_MODULES / ".bin" / "esbuild"), self._file("page.jsx", script), "--bundle", "--jsx=automatic")
        return self._run(*command, "--global-name=bundle", "--log-level=error", *options)

    def complaints(self, name: str, script: str) -> str:
        """Return what TypeScript says about a file and the package's types, strictly; those of others are not ours."""
        options = ("--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "--jsx", "react-jsx")
        checked = subprocess.run(
            [str(_MODULES / ".bin" / "tsc"), *options, self._file(name, script)],
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.stderr == ""
        return "".join(line for line in checked.stdout.splitlines(keepends=True) if not line.startswith(("../", " ")))

    def _file(self, name: str, text: str) -> str:
        path = self._folder / name
        path.write_text(text)
        return str(path)

    def _run(self, *command: str) -> str:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self._folder)}
        done = subprocess.run(command, cwd=self._folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

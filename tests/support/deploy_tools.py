"""The programs of `make tools`, which judge the files of deploy/ and serve some of them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.support.processes import ROOT
from tests.support.programs import find_or_skip, skip

Objects = dict[str, dict[str, Any]]
"""Kubernetes' objects, by their kind."""

_BIN = ROOT / ".tools/bin"

_RENDER = """\
import json, sys
import helm_python
chart, values = sys.argv[1], json.loads(sys.argv[2])
try:
    with helm_python.Chart.load(chart) as loaded:
        print(json.dumps({"texts": loaded.render(values, name="abide", namespace="prod")}))
except helm_python.HelmError as error:
    print(json.dumps({"error": str(error)}))
"""

_LINT = """\
import json, sys
import helm_python
print(json.dumps(helm_python.lint(sys.argv[1])))
"""

_JUDGE = """\
import json, sys
import kubernetes_validate
for one in json.load(sys.stdin):
    for version in sys.argv[1:]:
        kubernetes_validate.validate(one, version, strict=True)
"""


def tool(name: str) -> str:
    """Return the path of a program; without it skip the test, but fail it with CI=true."""
    path = _BIN / name
    if not path.exists():
        skip(f"not installed: {name}, by `make tools`")
    return str(path)


def run(
    name: str, *arguments: str, env: Mapping[str, str] | None = None, given: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a program in the checkout to its end."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **(env or {})}
    return subprocess.run(
        [tool(name), *arguments],
        cwd=ROOT,
        env=environment,
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


def kustomized() -> Objects:
    """Return what `kubectl apply --kustomize deploy/kubernetes` would apply."""
    return _by_kind(yaml.safe_load_all(_kustomized()))


def lint_chart() -> dict[str, Any]:
    """Return what `helm lint` says of the chart: ``messages`` with their ``severity``, and ``errors``."""
    return dict(_python(_LINT, "deploy/helm"))


def render(**values: object) -> Objects:
    """Return what `helm install abide deploy/helm` would apply with these values; raise :class:`ValueError`."""
    texts = _rendered(json.dumps(values))
    return _by_kind(yaml.safe_load(text) for name, text in texts.items() if name.endswith(".yaml") and text.strip())


def notes(**values: object) -> str:
    """Return what `helm install` prints."""
    return _rendered(json.dumps(values))["abide/templates/NOTES.txt"]


def judge(objects: Iterable[object], *versions: str) -> str:
    """Return what is wrong with objects by the schemas of versions of Kubernetes, strictly; empty for nothing."""
    return run("python", "-c", _JUDGE, *versions, given=json.dumps(list(objects))).stderr


@cache
def _kustomized() -> str:
    done = run("kubectl", "kustomize", "deploy/kubernetes")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@cache
def _rendered(values: str) -> dict[str, str]:
    answer = _python(_RENDER, "deploy/helm", values)
    if "error" in answer:
        raise ValueError(answer["error"])
    return dict(answer["texts"])


def _python(script: str, *arguments: str) -> Any:  # noqa: ANN401 — JSON
    done = run("python", "-c", script, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def _by_kind(objects: Any) -> Objects:  # noqa: ANN401 — an iterable of YAML
    found = {one["kind"]: one for one in objects}
    assert found
    return found


def systemd_verify(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run systemd's own check of deploy/abide.service, with this checkout for /opt/abide."""
    unit = folder / "abide.service"
    unit.write_text((ROOT / "deploy/abide.service").read_text().replace("/opt/abide", str(ROOT)))
    command = [find_or_skip("systemd-analyze"), "verify", "--man=no", str(unit)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)

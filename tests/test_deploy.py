"""What must agree: the Dockerfile, fly.toml, the lock files, gunicorn's settings, the recipes and the code."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import requires
from pathlib import Path, PurePosixPath
from typing import Any

import httpx
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.config import Environment
from tests.support.dockerfile import Dockerfile
from tests.support.postgres import PostgresServer
from tests.support.processes import ROOT, free_port
from tests.support.server import Server

DOCKERFILE = Dockerfile()
FLY: dict[str, Any] = tomllib.loads((ROOT / "fly.toml").read_text())
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RECIPES = sorted((ROOT / "docs/deploy").glob("*.md"))
STOP_SECONDS = 10
"""What gunicorn's graceful_timeout is longer than the drain."""


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Return each code block of the recipes in this language, with the name of its recipe."""
    for recipe in RECIPES:
        for text in re.findall(rf"^```{language}\n(.*?)^```$", recipe.read_text(), re.MULTILINE | re.DOTALL):
            yield recipe.stem, text


def pins(lock: str) -> dict[str, str]:
    """Return all that a lock file says of each package, by its name."""
    text = re.sub(r"^#.*\n", "", (ROOT / lock).read_text(), flags=re.MULTILINE)
    return {entry.partition("==")[0]: entry for entry in re.split(r"\n(?=\S)", text.strip())}


def seconds(duration: str) -> int:
    assert duration.endswith("s")
    return int(duration.removesuffix("s"))


def run(*command: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command with our own commands and this Python on the path, and nothing else of our environment."""
    path = {"PATH": f"{ROOT / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=cwd, env={**(env or {}), **path}, capture_output=True, text=True, check=False, timeout=50
    )
    print(done.stdout, done.stderr)  # noqa: T201 — pytest shows it when the test fails
    return done


def settings(env: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that gunicorn has in an environment."""
    command = ("python", "-m", "gunicorn", "--print-config", "-c", "gunicorn.conf.py", "app.main:create_app()")
    lines = run(*command, env=env).stdout.splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}


def test_both_stages_begin_with_the_same_python() -> None:
    """Both stages begin with the Python that the lock files are made for and the project asks for at least."""
    (base,) = DOCKERFILE.bases
    # No host: the engine knows its own. The digest says which of the images that the tag has had.
    version = re.fullmatch(r"python:(3\.\d+)-slim-bookworm@sha256:[0-9a-f]{64}", base)
    assert version
    assert PROJECT["requires-python"] == f">={version[1]}"
    assert f"--python-version {version[1]} " in (ROOT / "Makefile").read_text()


def test_the_image_runs_as_a_number_that_is_not_roots() -> None:
    """Image runs as a number that is not root's."""
    (user,) = DOCKERFILE.arguments("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_the_image_serves_or_runs_its_arguments() -> None:
    """Image serves, or does what its arguments say: a command of Abide's, whatever is put before it, or a shell's."""
    assert DOCKERFILE.entrypoint == ["entrypoint"]
    assert DOCKERFILE.command == ["serve"]
    assert DOCKERFILE.environment["PATH"].startswith("/app/bin:")
    for arguments in (["--version"], ["abide", "--version"], ["sh", "-c", "abide --version"]):
        done = run(str(ROOT / "bin" / "entrypoint"), *arguments)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"abide {PROJECT['version']}\n", "")
    served = run(str(ROOT / "bin" / "entrypoint"), *DOCKERFILE.command, "--help")
    assert served.stdout.startswith("usage: abide serve")


def test_the_port_is_the_same_everywhere() -> None:
    """Port is the same in the image, in fly.toml and as the default of the code."""
    port = Environment().port
    assert DOCKERFILE.environment["PORT"] == str(port)
    assert DOCKERFILE.arguments("EXPOSE") == [str(port)]
    assert FLY["http_service"]["internal_port"] == FLY["checks"]["live"]["port"] == port
    assert settings(DOCKERFILE.environment)["bind"].endswith(f":{port}']")


def test_no_variable_of_the_image_is_a_secret() -> None:
    """Image and fly.toml have no variable that is to be a secret."""
    assert DOCKERFILE.arguments("ARG") == []
    assert {*DOCKERFILE.environment, *FLY["env"]} & {"DATABASE_URL", "DIRECT_DATABASE_URL", "PUSH_KEYS"} == set()


def test_the_health_check_passes_where_the_server_is_alive(server: Server) -> None:
    """Health check of the image passes where the server is alive, and fails where nobody listens."""
    assert run(*DOCKERFILE.health, env={"PORT": str(server.port)}).returncode == 0
    assert run(*DOCKERFILE.health, env={"PORT": str(free_port())}).returncode == 1


def test_the_copied_files_load_the_whole_application(tmp_path: Path) -> None:
    """What the image copies and .dockerignore lets through is enough to load the whole application."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sources = {source for source, _ in DOCKERFILE.copied}
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == sources
    for source in sources:
        path, target = ROOT / source, tmp_path / source
        if path.is_dir():
            shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(path, target)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    assert run(str(tmp_path / "bin" / "abide"), "check", cwd=tmp_path).returncode == 0
    load = ("python", "-m", "gunicorn", "--check-config", "-c", "gunicorn.conf.py", "app.main:create_app()")
    assert run(*load, cwd=tmp_path).returncode == 0


def test_run_lock_agrees_with_the_other() -> None:
    """Lock of the image pins a part of what the lock of the project pins, to the same versions and hashes.

    Another package of the project may need it on other Pythons, too: so the markers may differ.
    """
    whole, part = (
        {name: re.sub(" ;.*", "", pin) for name, pin in pins(lock).items()}
        for lock in ("requirements.lock", "requirements-run.lock")
    )
    assert {name: whole.get(name) for name in part} == part


def test_run_lock_is_what_the_server_needs() -> None:
    """Lock of the image has the project's dependencies and the engines' drivers with all they need."""
    needed: set[str] = set()
    extras = PROJECT["optional-dependencies"]
    waiting = [Requirement(line) for line in (*PROJECT["dependencies"], *extras["redis"], *extras["kafka"])]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in needed and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            needed.add(name)
            waiting += map(Requirement, requires(name) or [])
    pinned = (Requirement(pin.split(" \\")[0]) for pin in pins("requirements-run.lock").values())
    assert {pin.name for pin in pinned if pin.marker is None or pin.marker.evaluate()} == needed


def test_a_stop_on_fly_ends_before_flys_patience() -> None:
    """Stop on Fly is SIGTERM; the drain ends before gunicorn's patience does, and that before Fly's."""
    assert FLY["kill_signal"] == "SIGTERM"
    graceful = int(settings(FLY["env"])["graceful_timeout"])
    drain = int(FLY["env"]["DRAIN_SECONDS"])
    assert drain < graceful < seconds(FLY["kill_timeout"])
    assert graceful == drain + STOP_SECONDS


def test_the_checks_of_fly_ask_for_what_the_server_answers(server: Server) -> None:
    """Checks of fly.toml ask for what the server answers: readiness for traffic, life for people."""
    (traffic,) = FLY["http_service"]["checks"]
    assert (traffic["path"], FLY["checks"]["live"]["path"]) == ("/health/ready", "/health/live")
    for check in (traffic, FLY["checks"]["live"]):
        assert httpx.request(check["method"], f"{server.url}{check['path']}").status_code == 200


def test_the_limits_of_fly_count_connections() -> None:
    """Limits of fly.toml count connections, and half of what one machine takes at most has room on another."""
    limits = FLY["http_service"]["concurrency"]
    assert limits["type"] == "connections"
    assert limits["soft_limit"] * 2 <= limits["hard_limit"]


def test_the_metrics_are_not_published_by_fly() -> None:
    """Metrics are on a port of their own, which fly.toml does not publish."""
    assert FLY["metrics"]["port"] == int(FLY["env"]["METRICS_PORT"]) != FLY["http_service"]["internal_port"]


def test_the_files_that_fly_ships_exist() -> None:
    """File that fly.toml ships exists, and lies where the server in the image looks for it."""
    (file,) = FLY["files"]
    (folder,) = DOCKERFILE.arguments("WORKDIR")
    assert (ROOT / file["local_path"]).is_file()
    assert PurePosixPath(file["guest_path"]) == PurePosixPath(folder) / Environment().channels_config


def test_the_release_command_migrates_the_database() -> None:
    """Release command migrates the database that there is, and without one does nothing, successfully."""
    command = shlex.split(FLY["deploy"]["release_command"])
    without = run(*command)
    assert (without.returncode, without.stdout, without.stderr) == (0, "", "")
    with PostgresServer() as postgres:
        database = {"DATABASE_URL": postgres.url()}
        first, second = (run(*command, env=database) for _ in range(2))
    assert first.stdout.startswith("applied ")
    assert second.stdout == "the schema is current\n"
    assert run(*command, env=database).returncode == 1


def test_recipes_name_what_exists() -> None:
    """Recipes name paths of the server's own, and its commands as they are."""
    text = "\n".join(recipe.read_text() for recipe in RECIPES)
    assert set(re.findall(r"(?<=[\s`=:])/health/\w+", text)) == {"/health/live", "/health/ready"}
    for command in set(re.findall(r"\babide (check|migrate|serve|\w+(?=`))", text)):
        assert run("abide", command, "--help").returncode == 0


def test_the_recipes_blocks_can_be_read() -> None:
    """Recipes' YAML and JSON can be read."""
    for _, text in blocks("yaml"):
        assert list(yaml.safe_load_all(text))
    for _, text in blocks("json"):
        assert json.loads(text)

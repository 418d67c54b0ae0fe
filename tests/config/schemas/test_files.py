"""The schema files beside channels.yaml."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.config import Diagnostic, Settings
from app.config.schemas.files import MAX_ALL, MAX_FILE
from tests.support.processes import ROOT

Load = Callable[..., Settings]
Problems = Callable[..., tuple[Diagnostic, ...]]


def fill(path: Path, size: int) -> None:
    path.write_bytes(b"true".ljust(size))


def test_channels_share_the_schema_of_one_file(load_text: Load, tmp_path: Path) -> None:
    """Channels that name one file share its schema, families too; others have none."""
    (tmp_path / "schemas").mkdir()
    fill(tmp_path / "schemas" / "order.json", 4)
    settings = load_text("channels: {a: {schema: schemas/order.json}, 'b.{c}': {schema: schemas/order.json}, d: }")
    registry = settings.registry
    assert registry.find("a").schema is registry.find("b.1").schema is not None
    assert registry.find("d").schema is None
    assert settings.schemas == ("schemas/order.json",)


def test_a_path_may_come_from_a_variable_and_is_not_shown_then(
    load_text: Load, problems: Problems, tmp_path: Path
) -> None:
    """Path from a variable is taken like any other, and its value appears in no message."""
    content = "channels: {a: {schema: '${FILE}'}}"
    (problem,) = problems(content, FILE="secret.json")
    assert problem.message.startswith("the file cannot be read")
    fill(tmp_path / "secret.json", 4)
    assert load_text(content, FILE="secret.json").registry.find("a").schema is not None


def test_every_channel_whose_schema_is_broken_is_reported(problems: Problems, tmp_path: Path) -> None:
    """Each key that names a broken file is a problem of its own, together with what else is wrong."""
    (tmp_path / "order.json").write_text("{")
    found = problems("channels:\n  a: {schema: order.json}\n  b: {publish: no-one}\n  c: {schema: order.json}\n")
    assert [(problem.line, problem.key_path) for problem in found] == [
        (2, "channels.a.schema"),
        (3, "channels.b.publish"),
        (4, "channels.c.schema"),
    ]


def test_schema_files_are_bounded(load_text: Load, problems: Problems, tmp_path: Path) -> None:
    """File may have 256 KiB, and all files together 4 MiB."""
    fill(tmp_path / "0.json", MAX_FILE)
    assert load_text("channels: {a: {schema: 0.json}}").schemas == ("0.json",)
    fill(tmp_path / "0.json", MAX_FILE + 1)
    (problem,) = problems("channels: {a: {schema: 0.json}}")
    assert "has more than 262144 bytes (256 KiB)" in problem.message
    count = MAX_ALL // MAX_FILE + 1
    for number in range(count):
        fill(tmp_path / f"{number}.json", MAX_FILE)
    found = problems(f"channels: {{{', '.join(f'c{number}: {{schema: {number}.json}}' for number in range(count))}}}")
    assert [problem.key_path for problem in found] == [f"channels.c{count - 1}.schema"]
    assert "all schema files together" in found[0].message


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to(path)], ids=["folder", "loop"])
def test_what_is_no_file_is_refused(problems: Problems, tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Folder, or a link to itself, is reported like a missing file."""
    make(tmp_path / "order.json")
    (problem,) = problems("channels: {a: {schema: order.json}}")
    assert problem.message.startswith('"order.json" cannot be read')


def test_jsonschema_is_loaded_only_where_a_channel_has_a_schema(tmp_path: Path) -> None:
    """Process that serves no schema does not load what judges by them."""
    fill(tmp_path / "order.json", 4)
    code = (
        "import sys; from app.config import Environment, load; import app.main; load(Environment.read());"
        "print('jsonschema_rs' in sys.modules)"
    )
    for schema, loaded in (("", "False"), ("order.json", "True")):
        (tmp_path / "channels.yaml").write_text(f"channels: {{orders: {{schema: '{schema}'}}}}")
        environment = {"CHANNELS_CONFIG": str(tmp_path / "channels.yaml"), "PYTHONPATH": str(ROOT)}
        command = (sys.executable, "-c", code)
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert answer.stdout.strip() == loaded

"""The channels.yaml that a page shows can be served as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.config.conftest import Load

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def documented() -> list[tuple[str, str]]:
    """Return the page and the text of each block of YAML that declares channels."""
    shown = [
        (str(page.relative_to(ROOT)), re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL))
        for page in PAGES
    ]
    return [(page, text) for page, texts in shown for text in texts if re.search(r"^channels:", text, re.MULTILINE)]


@pytest.mark.parametrize(("page", "text"), documented())
def test_a_file_that_a_page_shows_can_be_served(page: str, text: str, load_text: Load, tmp_path: Path) -> None:
    """Page's channels.yaml loads, with the reader's own secret and schema files in it."""
    for name in re.findall(r"schema: ([\w./-]+)", text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    own = dict.fromkeys(re.findall(r"\$\{(\w+)\}", text), "s" * 32)
    assert load_text(text.replace("…", "s" * 32), **own).registry.channels, page

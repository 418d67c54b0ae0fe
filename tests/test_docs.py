"""The documentation is true: every code, command and route that exists is described."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.client import client_error
from app.core.errors import CLOSE_CODES, AbideError
from app.telemetry.metrics import Metrics
from app.web.edge.problems import STATUSES
from app.wire.close_codes import CloseCode

ROOT = Path(__file__).parents[1]
CODES = (ROOT / "docs/codes.md").read_text()
ROWS = {row[0]: row[1:] for row in re.findall(r"^\| `(\w+)` \| (\S+) \| (\S+) \|", CODES, re.MULTILINE)}


SECURITY = (ROOT / "docs/security.md").read_text()

DASH = "\N{EN DASH}"

PAGES = [
    *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").rglob("*.md"))),
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "loadtests/README.md"),
]


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


def test_both_clients_try_the_documented_answers_again() -> None:
    """Statuses and close codes that both clients try again are those of the one table."""
    table = (ROOT / "docs/client.md").read_text().partition("## What is tried again")[2]
    rows = re.findall(r"^\| (HTTP status|close code) (.*?) \| yes", table, re.MULTILINE)
    statuses, closes = ({int(number) for number in re.findall(r"\d+", row)} for _, row in rows)
    script = re.search(r"const PASSING = \[(.*)\]", (ROOT / "app/web/console/client.js").read_text())
    assert script is not None
    assert statuses == client_error.PASSING_STATUSES | {500, 599}
    assert closes == client_error.PASSING
    assert {int(number) for number in script[1].split(", ")} == closes | statuses - {500, 599}


def test_variables_of_fly_are_documented() -> None:
    """Docs have a row for every environment variable that fly.toml sets."""
    text = (ROOT / "docs/configuration.md").read_text()
    variables = tomllib.loads((ROOT / "fly.toml").read_text())["env"]
    assert set(variables) <= set(re.findall(r"^\| `([A-Z_]+)` \|", text, re.MULTILINE))


async def exposed() -> dict[str, tuple[str, ...]]:
    """Return the metrics of a process in which everything has happened once: name → type, and labels."""
    metrics = Metrics(lambda name: name)
    metrics.declare(["news"])
    metrics.missed("expired")
    metrics.refused("overloaded")
    metrics.failed("connection")
    metrics.limited("bodies_held")
    metrics.sample({"news": 1}, slow=0, lag=0, backend_ok=True)
    body, _ = await metrics.exposition("")
    found: dict[str, tuple[str, ...]] = {}
    for family in text_string_to_metric_families(body.decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = (family.type, *sorted({label for sample in family.samples for label in sample.labels} - {"le"}))
    return found


async def test_every_metric_is_documented() -> None:
    """Docs have a row for every metric and no other, with its type and its labels."""
    text = (ROOT / "docs/operations/metrics.md").read_text()
    rows = re.findall(r"^\| `(abide_\w+)` \| (\w+) \| (\S+) \|", text, re.MULTILINE)
    assert {name: (kind, *re.findall(r"`(\w+)`", labels)) for name, kind, labels in rows} == await exposed()
    assert set(re.findall(r"abide_\w+?(?=_bucket|\W)", text)) - {"abide_published"} == {name for name, *_ in rows}


async def test_the_dashboard_shows_what_is_there() -> None:
    """Dashboard asks for every metric, and for nothing that does not exist."""
    dashboard = json.loads((ROOT / "docs/operations/grafana-dashboard.json").read_text())
    series = await exposed()
    for name, (kind, *_) in list(series.items()):
        if kind == "histogram":
            series |= {f"{name}_{part}": (kind,) for part in ("bucket", "sum", "count")}
    asked = set(re.findall(r"abide_\w+", " ".join(expressions(dashboard))))
    assert asked - set(series) == set()
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in asked} == set(await exposed())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"] if panel["type"] != "row"} == {"${datasource}"}


def expressions(node: object) -> Iterator[str]:
    """Return the PromQL in a dashboard."""
    if isinstance(node, dict):
        yield from (value for name, value in node.items() if name in {"expr", "query"} and isinstance(value, str))
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from expressions(child)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    """Pages link to files that exist, and to headings that those have."""
    path = ROOT / page
    links = re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", without_code(path))
    missing = [target for target, _ in links if not (path.parent / target).exists()]
    assert missing == []
    places = [(path.parent / target if target else path, heading) for target, heading in links if heading]
    assert [heading for target, heading in places if heading not in headings(target)] == []


def without_code(page: Path) -> str:
    """Return a page's text without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def headings(page: Path) -> set[str]:
    """Return what a link may have after its ``#``."""
    titles = re.findall(r"^#+ (.+)$", without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_quoted_messages_are_those_of_the_server() -> None:
    """Messages by which one finds the trouble are what the server says."""
    text = (ROOT / "docs/operations/troubleshooting.md").read_text()
    quoted = re.findall(r"^\| `(?:backend|METRICS_PORT|WEB_CONCURRENCY): (.+?)` \|", text, re.MULTILINE)
    said = re.sub(r"\s+", " ", "".join(path.read_text() for path in (ROOT / "app").rglob("*.py")))
    said += (ROOT / "gunicorn.conf.py").read_text()
    assert len(quoted) > 5
    assert [message for message in quoted if message.strip("… ") not in said] == []


def test_every_event_is_documented_and_no_other() -> None:
    """Events that the docs explain are those that the code logs, but for the lines of requests and connections."""
    section = (ROOT / "docs/operations/README.md").read_text().partition("## Logs")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+`) \|", section, re.MULTILINE)
    documented = {event for row in rows for event in re.findall(r"`(\w+)`", row.partition(" | ")[0])}
    assert documented == every(r'_log(?:ger)?\.\w+\(\s*"([a-z]+(?:_[a-z]+)*)"', "app/**/*.py")


def test_every_bound_is_documented_with_a_test_that_exists() -> None:
    """Table of bounds has each limit that the code counts, no other, and names tests that there are."""
    table = SECURITY.partition("## Bounds")[2]
    rows = [row.split(" | ") for row in re.findall(r"^\| (.+) \|$", table, re.MULTILINE)][2:]
    counted = every(r'limited\("(\w+)"', "app/**/*.py")
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row[3])} == counted
    named = [re.findall(r"`(test_\w+)`", row[4]) for row in rows]
    assert all(named)
    assert {name for names in named for name in names} <= every(r"def (test_\w+)", "tests/**/test_*.py")


def every(pattern: str, files: str) -> set[str]:
    """Return what a pattern finds in files of the project."""
    return {name for path in ROOT.glob(files) for name in re.findall(pattern, path.read_text())}

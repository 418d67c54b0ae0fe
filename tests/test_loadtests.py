"""The load test tells good runs from bad ones, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from loadtests.__main__ import main
from loadtests.reconciliation import Account, Heads, Ledger, Row
from loadtests.thresholds import Limits, Outcome, judge, percentile
from tests.conftest import ServerFactory
from tests.support.processes import ROOT, free_port
from tests.support.proxy import FaultProxy

HEADS: Heads = {"news": {"e": 5}}
LIMITS = Limits(p99=500, failures=0, holes=0, doubles=0)


def received(*offsets: int, heads: Heads = HEADS) -> Row:
    """Return the account of a subscriber that came when the head was 1."""
    account = Account("one", "news")
    account.subscribed("e:1")
    for offset in offsets:
        account.message(f"e:{offset}")
    return account.row(heads)


def outcome(*rows: Row, heads: Heads = HEADS, failures: int = 0, silent_workers: int = 0) -> Outcome:
    return Outcome(
        rows=rows, heads=heads, latencies=[1.0, 9.0], failures=failures, exceptions=0, silent_workers=silent_workers
    )


@pytest.mark.parametrize(
    ("offsets", "holes", "doubles"),
    [
        ((2, 3, 4, 5), 0, 0),
        ((2, 4, 5), 1, 0),
        ((2, 3, 3, 4, 5), 0, 1),
        ((2, 4, 3, 5), 1, 1),
        ((2, 3), 2, 0),
        ((), 4, 0),
    ],
)
def test_an_account_tells_holes_and_doubles(offsets: Sequence[int], holes: int, doubles: int) -> None:
    """Account counts what is missing before and after the newest message, what comes twice, and disorder as both."""
    row = received(*offsets)
    assert (row.expected, row.holes, row.doubles) == (4, holes, doubles)


def test_an_account_goes_on_over_reconnects() -> None:
    """Account stays where it is when its subscriber resumes, so what is left out or repeated then shows."""
    account = Account("one", "news")
    assert account.position is None
    account.subscribed("e:1")
    account.message("e:2")
    assert account.position == "e:2"
    account.subscribed("e:3")
    account.message("e:4")
    account.message("e:5")
    assert account.row(HEADS) == Row("one", "news", expected=4, received=3, doubles=0, gaps=0, gone=0)


@pytest.mark.parametrize(("following", "gone"), [("e:4", 2), ("e:1", 0), ("f:1", 0)])
def test_a_gap_that_is_told_is_no_hole(following: str, gone: int) -> None:
    """Account goes on after a gap wherever the server says, and counts it apart."""
    account = Account("one", "news")
    account.subscribed("e:1")
    account.gap(following)
    account.message(following)
    row = account.row({})
    assert (row.expected, row.received, row.holes, row.doubles, row.gaps, row.gone) == (1, 1, 0, 0, 1, gone)


def test_an_account_takes_the_frames_of_a_connection() -> None:
    """Account notes each frame of abide.v1 that has a position, and nothing of the others."""
    account = Account("one", "news")
    for frame in (
        {"type": "subscribed", "position": "e:1"},
        {"type": "message", "position": "e:2"},
        {"type": "published", "id": 1},
        {"type": "gap", "after": "e:2", "next": "e:4"},
        {"type": "message", "position": "e:4"},
    ):
        account.take(frame)
    assert account.row({}) == Row("one", "news", expected=2, received=2, doubles=0, gaps=1, gone=1)


def test_another_life_of_the_log_is_a_hole_unless_it_is_told() -> None:
    """Account of a subscriber that gets messages of another epoch without a gap has a hole."""
    account = Account("one", "news")
    account.subscribed("e:1")
    account.message("f:1")
    assert account.row({}).holes == 1


def test_who_has_left_is_owed_nothing_more() -> None:
    """Ledger waits for the subscribers that are there, and for nobody else."""
    ledger = Ledger()
    ledger.stored("news", "e", 5)
    ledger.stored("news", "e", 4)
    gone, here, never = (ledger.open("news") for _ in range(3))
    gone.subscribed("e:1")
    here.subscribed("e:1")
    gone.present = False
    assert ledger.is_behind(ledger.heads)
    assert [row.holes for row in ledger.rows(ledger.heads)] == [0, 4]
    here.present = False
    assert not ledger.is_behind(ledger.heads)
    assert never.position is None


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (outcome(received(2, 4, 5)), "1 holes, more than 0"),
        (outcome(received(2, 2, 3, 4, 5)), "1 doubles, more than 0"),
        (outcome(received(2, 3, 4, 5), failures=1), "1 failures, more than 0"),
        (outcome(received(2, 3, 4, 5), silent_workers=1), "1 locust processes did not report what they received"),
        (
            outcome(received(2, 3, 4, 5), heads={"news": {"e": 5, "f": 1}}),
            "the log began anew during the run: news",
        ),
        (outcome(heads={}), "no subscriber received anything"),
    ],
)
def test_a_bad_run_fails_for_its_reason_alone(run: Outcome, reason: str) -> None:
    """Thresholds name what was exceeded, and nothing else."""
    assert judge(run, LIMITS) == [reason]


def test_a_good_run_passes_up_to_its_limits() -> None:
    """Thresholds are what is still good."""
    assert judge(outcome(received(2, 3, 4, 5)), LIMITS) == []
    assert judge(outcome(received(2, 2, 4, 5), failures=3), Limits(p99=9, failures=3, holes=1, doubles=1)) == []
    assert percentile(range(1, 101), 99) == 99


def test_every_option_is_documented() -> None:
    """Options of the load test stand in its README, each of them."""
    # Read as text: importing locust replaces the sockets and threads of the process.
    names = re.findall(r'^ +(?:\("|"--)([a-z0-9-]+)", *', (ROOT / "loadtests/options.py").read_text(), re.MULTILINE)
    readme = (ROOT / "loadtests/README.md").read_text()
    assert "shape" in names
    assert [name for name in names if f"`--{name}`" not in readme] == []


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Return a function that runs ``python -m loadtests`` and returns exit code, summary and page."""

    def run(*arguments: str, **variables: str) -> tuple[int, dict[str, Any], str]:
        page, summary = tmp_path / "report.html", tmp_path / "summary.json"
        files = {"LOCUST_HTML": str(page), "LOCUST_SUMMARY": str(summary)}
        process = subprocess.run(
            [sys.executable, "-m", "loadtests", *arguments],
            cwd=ROOT,
            env={key: value for key, value in os.environ.items() if key != "DATABASE_URL"} | files | variables,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert page.exists(), process.stdout + process.stderr
        assert f"Report: {page}" in process.stdout
        return process.returncode, json.loads(summary.read_text()), page.read_text()

    return run


def still_running(mark: str) -> list[str]:
    """Return the processes whose environment holds a text."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


def test_a_run_reconciles_and_ends_all_that_it_started(
    load: Callable[..., tuple[int, dict[str, Any], str]], tmp_path: Path
) -> None:
    """Run on a server and a Postgres of its own passes, with every message accounted for and nothing left running."""
    code, summary, page = load("--users", "10", "--seconds", "5", LOCUST_SPAWN_RATE="10", LOCUST_STORM_SECONDS="2")
    totals = summary["reconciliation"]
    assert (code, summary["reasons"], summary["failures"]) == (0, [], 0)
    assert totals["subscribers"] == len(summary["subscribers"]) == 9
    assert totals["expected"] == totals["received"] > 9
    assert (totals["holes"], totals["doubles"], totals["gaps"]) == (0, 0, 0)
    assert summary["probe_messages"] > 0
    assert '"resume"' in page, "the storm did not reconnect"
    assert "Reconciliation: 9 subscribers" in page
    assert still_running(str(tmp_path)) == []


async def test_what_is_lost_and_doubled_fails_a_run_of_several_processes(
    load: Callable[..., tuple[int, dict[str, Any], str]], server_factory: ServerFactory
) -> None:
    """Run of a master and two workers exits with 1 and names every threshold that it exceeded, and nothing else."""
    port = str(free_port())
    async with FaultProxy("127.0.0.1", server_factory().port) as proxy:
        proxy.forge(b'5"', b'4"')  # of every ten messages one comes twice, and the one after it never
        code, summary, _ = await asyncio.to_thread(
            load,
            *("--host", f"http://127.0.0.1:{proxy.port}", "--users", "10", "--seconds", "4", "--processes", "2"),
            LOCUST_CHANNELS="news,chat.1",
            LOCUST_PUBLISH_RATE="20",
            LOCUST_PATIENCE="1",
            LOCUST_SHAPE="ramp",
            LOCUST_MAX_P99="0.001",
            LOCUST_MASTER_BIND_PORT=port,
            LOCUST_MASTER_NODE_PORT=port,
        )
    totals = summary["reconciliation"]
    assert code == 1
    assert [re.sub(r"[\d.]+", "N", reason) for reason in summary["reasons"]] == [
        "pN of fan-out is N ms, more than N",
        "N holes, more than N",
        "N doubles, more than N",
    ]
    assert totals["expected"] - totals["received"] == totals["holes"] > 0
    assert totals["doubles"] > 0
    assert {row["subscriber"].split(",")[0] for row in summary["subscribers"]} == {"process 1", "process 2"}
    assert {row["channel"] for row in summary["subscribers"]} == set(summary["heads"]) == {"news", "chat.1"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--users", "0"], "argument --users: write a whole number from 1 on, not '0'"),
        (["--seconds", "-1"], "argument --seconds: write a whole number from 1 on, not '-1'"),
        (["--host", "here"], "argument --host: 'here' is not a server's address: expected http://host:port"),
        (["--host", "http://127.0.0.1:1"], "argument --host: cannot reach http://127.0.0.1:1: Connection refused"),
    ],
)
def test_a_wrong_option_is_told_before_anything_runs(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Load test with a wrong option, or a server that is not there, says so and ends with 2."""
    monkeypatch.setattr("sys.argv", ["make load", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err

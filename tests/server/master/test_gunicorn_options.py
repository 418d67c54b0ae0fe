"""The options of gunicorn's that Abide takes."""

from __future__ import annotations

import pytest

from app.server.master import gunicorn_options
from app.server.master.gunicorn_options import Given, OptionError


def given(monkeypatch: pytest.MonkeyPatch, variable: str, *arguments: str) -> dict[str, Given]:
    """Read what gunicorn is given by GUNICORN_CMD_ARGS and on its command line."""
    monkeypatch.setenv("GUNICORN_CMD_ARGS", variable)
    monkeypatch.setattr("sys.argv", ["gunicorn", *arguments])
    return gunicorn_options.read()


def test_the_command_line_goes_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options are taken as gunicorn takes them, and each is known by the place where it was given."""
    options = given(monkeypatch, "-w 2 --access-logfile - --timeout 9", "-c", "x.py", "-w3", "app.main:create_app()")
    assert options["workers"] == Given("--workers", 3)
    assert options["timeout"] == Given("GUNICORN_CMD_ARGS: --timeout", 9)
    assert options.keys() == {"accesslog", "config", "timeout", "workers"}


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("-b 0.0.0.0:1", "--bind: Abide does not take this option of gunicorn's: set HOST and PORT"),
        ("--chdir /", "--chdir: Abide does not take this option of gunicorn's: set CHANNELS_CONFIG"),
        ("-e WEB_CONCURRENCY=2", "--env: Abide does not take this option of gunicorn's: set the variable itself"),
        (
            "--graceful-timeout 1",
            "--graceful-timeout: Abide does not take this option of gunicorn's: set DRAIN_SECONDS",
        ),
        ("-D", "--daemon: "),
        ("--threads 2", "--threads: "),
        ("--preload", "--preload: "),
        ("--reload", "--reload: "),
        ("--reuse-port", "--reuse-port: "),
        ("--max-requests 1", "--max-requests: Abide does not take this option of gunicorn's: leave it out"),
        ("--certfile x", "--certfile: "),
        ("--timeout -1", "--timeout: Value must be positive: -1"),
        ("--worker-tmp-dir /nowhere", "--worker-tmp-dir: there is no folder /nowhere"),
    ],
)
def test_what_would_undo_what_is_checked_is_refused(
    monkeypatch: pytest.MonkeyPatch, option: str, expected: str
) -> None:
    """Option that could undo what Abide checks is refused, wherever it was given, with what to do."""
    with pytest.raises(OptionError) as refused:
        given(monkeypatch, option)
    assert str(refused.value).startswith(f"GUNICORN_CMD_ARGS: {expected}")
    with pytest.raises(OptionError) as refused:
        given(monkeypatch, "", *option.split())
    assert str(refused.value).startswith(expected)


def test_who_runs_gunicorn_may_have_a_worker_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker class is taken from the command line alone: a variable may be meant for another server."""
    assert given(monkeypatch, "", "-k", "mine.Worker")["worker_class"].value == "mine.Worker"
    with pytest.raises(OptionError):
        given(monkeypatch, "-k gthread")

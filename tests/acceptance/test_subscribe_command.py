"""``publish`` and ``subscribe`` as people run them, beside a server that is killed under them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.cli import main
from tests.support import warm
from tests.support.processes import ROOT, free_port
from tests.support.programs import Program
from tests.support.server import Server
from tests.support.warm import ABIDE

CHANNELS = """\
backend: ${DATABASE_URL:-memory://}
auth: {keys: "first-key-1"}
channels:
  lebowski: {publish: anyone}
  sealed: {publish: key}
  "safe.{name}": {publish: key}
"""


def command(*arguments: str) -> Program:
    """Start ``bin/abide``."""
    return Program(ABIDE, *arguments, apart=True)


def run(*arguments: str, given: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return warm.run(*arguments, environment=os.environ | variables, given=given)


@pytest.fixture(scope="module")
def memory() -> Iterator[Server]:
    with Server(channels=CHANNELS) as server:
        yield server


def start(port: int, database_url: str) -> Server:
    server = Server(channels=CHANNELS, env={"PORT": str(port), "DATABASE_URL": database_url})
    server.port = port
    return server


def test_subscribe_shows_every_message_once_across_a_kill(database_url: str) -> None:
    """Subscribe left running while the whole server is killed and started again shows each message once, in order."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    expected = [f'"{life}-{number}"' for life in range(3) for number in range(20)]
    shown: list[str | None] = []
    with command("subscribe", "lebowski", "--url", url, "--since", "earliest") as subscriber:
        for life in range(3):
            with start(port, database_url) as server, httpx.Client(base_url=url) as http:
                for number in range(20):
                    assert http.post("/push/lebowski", json=f"{life}-{number}").status_code == 200
                if life != 1:  # in one life it may have seen nothing when the end comes
                    shown.append(subscriber.line())
                server.kill()
        with start(port, database_url):
            shown.extend(subscriber.lines(len(expected) - len(shown)))
            assert shown == expected
            assert run("publish", "lebowski", '"last"', "--url", url).returncode == 0
            assert subscriber.line() == '"last"'
        assert subscriber.interrupt() == 0
    said = subscriber.errors
    assert said[0].startswith("not connected: ")
    assert any(line.startswith("connected again, after ") for line in said)
    assert not any(line.startswith("gap") for line in said)


def test_subscribe_tells_of_a_gap() -> None:
    """Subscribe says on stderr what is missing when the log began anew, and goes on."""
    port = free_port()
    with (
        start(port, "") as server,
        command("subscribe", "lebowski", "--url", server.url, "--since", "old:3") as subscriber,
    ):
        httpx.post(f"{server.url}/push/lebowski", json="new")
        assert subscriber.line() == '"new"'
        assert subscriber.interrupt() == 0
    assert any(line.startswith("gap (epoch): nothing between old:3 and ") for line in subscriber.errors)


def test_publish_and_subscribe_print_positions(memory: Server) -> None:
    """Publish prints the position of what it was given or read; subscribe with --json prints it with the message."""
    where = ("--url", memory.url)
    first = run("publish", "sealed", '{"a": "\u00e9"}', "--key", "first-key-1", *where)
    second = run("publish", "sealed", "-", "--key", "first-key-1", *where, given="[1,\n2]\n")
    assert [(done.returncode, done.stderr) for done in (first, second)] == [(0, "")] * 2
    with command("subscribe", "sealed", "--last", "2", "--json", *where) as subscriber:
        got = [json.loads(subscriber.line() or "") for _ in range(2)]
        assert subscriber.interrupt() == 0
    assert [one.pop("time") > 1_600_000_000_000 for one in got] == [True, True]
    assert got == [
        {"channel": "sealed", "position": first.stdout.strip(), "data": {"a": "\u00e9"}},
        {"channel": "sealed", "position": second.stdout.strip(), "data": [1, 2]},
    ]
    with command("subscribe", "sealed", "--last", "2", *where) as subscriber:
        assert subscriber.lines(2) == ['{"a": "\u00e9"}', "[1, 2]"]


def test_a_credential_is_kept_out_of_the_list_of_processes(memory: Server, tmp_path: Path) -> None:
    """Command takes a key or a token from ABIDE_TOKEN, or from a file, which it reads again after a refusal."""
    where = ("publish", "safe.files", "1", "--url", memory.url)
    assert run(*where, ABIDE_TOKEN="first-key-1").returncode == 0
    file = tmp_path / "token"
    file.write_text("no-such-key\n")
    with command(*where, "--token-file", str(file)) as publisher:
        memory.wait_log(lambda line: line.get("path") == "/push/safe.files" and line.get("status") == 401)
        file.write_text("first-key-1\n")
        assert publisher.wait() == 0
    file.write_text("\n")
    done = run(*where, "--token-file", str(file), ABIDE_TOKEN="first-key-1")
    assert (done.returncode, done.stderr) == (1, f"no token: {file} is empty\n")


EXACT = [
    '{"b" : 1E400, "a":[ 1.10,12345678901234567890123]}', "[" * 128 + "]" * 128, "1" * 5000, '"\\ud800 \u2028\u00e9"',
]  # fmt: skip


def test_data_is_printed_as_it_was_given(memory: Server) -> None:
    """Publish sends what it is given byte for byte, and subscribe prints it so, in --json too."""
    where = ("--url", memory.url)
    positions = [run("publish", "lebowski", text, *where).stdout.strip() for text in EXACT]
    with command("subscribe", "lebowski", "--last", "4", *where) as subscriber:
        assert subscriber.lines(len(EXACT)) == EXACT
    with command("subscribe", "lebowski", "--last", "4", "--json", *where) as subscriber:
        for position, text in zip(positions, EXACT, strict=True):
            line = subscriber.line() or ""
            assert line.startswith(f'{{"channel": "lebowski", "position": "{position}", "time": ')
            assert line.endswith(f', "data": {text}}}')


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("publish", "lebowski", "hello"), "publish lebowski '\"hello\"'"),
        (("publish", "lebowski", "NaN"), "DATA is not JSON"),
        (("publish", "lebowski", "-"), "stdin is not JSON"),
        (("publish", "nope", "1"), "nope"),
        (("publish", "sealed", "1"), "key"),
        (("subscribe", "nope"), "nope"),
        (("subscribe", "lebowski", "--since", "x"), "position"),
        (("subscribe", "lebowski", "--url", "localhost"), "http://host:port"),
    ],
)
def test_a_refusal_is_one_line(memory: Server, arguments: tuple[str, ...], said: str) -> None:
    """Command that is refused says why in one line on stderr, and exits 1."""
    done = run(*arguments, *(() if "--url" in arguments else ("--url", memory.url)), given="no JSON")
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_subscribe_ends_with_its_reader(memory: Server) -> None:
    """Subscribe ends without a word, and with 0, when nobody reads on, whether messages come or not."""
    run("publish", "lebowski", "1", "--url", memory.url)
    line = f"{ABIDE} subscribe lebowski --last 1 --url {memory.url} | head -n 1"
    command = ["bash", "-o", "pipefail", "-c", line]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"1\n", b"")


def test_every_command_and_option_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    """Commands and their options are those that the documentation names."""

    def helped(*arguments: str) -> str:
        with pytest.raises(SystemExit):
            main([*arguments, "--help"])
        return capsys.readouterr().out

    commands = re.findall(r"^ {4}([a-z]+)\b", helped(), re.MULTILINE)
    documented = "".join((ROOT / "docs" / name).read_text() for name in ("client.md", "configuration.md"))
    shown = {command: helped(command) for command in commands}
    assert {"serve", "subscribe"} < shown.keys()
    assert [command for command in shown if f"`bin/abide {command}" not in documented] == []
    options = {option for text in shown.values() for option in re.findall(r"--[a-z-]+", text)}
    assert {"--url", "--since", "--key"} < options
    assert [option for option in sorted(options) if f"`{option}" not in documented] == []

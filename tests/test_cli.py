"""The commands, as processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from app import __version__
from app.cli import main
from app.config import json_schema
from app.core.engines import ENGINES
from app.core.errors import UnavailableError
from tests.support import warm
from tests.support.warm import ABIDE

ROOT = Path(__file__).parents[1]


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``bin/abide`` in the project, with only these variables of ours set."""
    return warm.run(*arguments, environment={"PATH": os.environ["PATH"], **variables})


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """Return the path of a file with two problems."""
    path = tmp_path / "broken.yaml"
    path.write_text("backend: redis://me:hunter2@db/app\nchannels:\n  a: {publish: x}\n")
    return str(path)


@pytest.fixture
def gunicorn(tmp_path: Path) -> str:
    """Return a folder with a gunicorn that only prints its arguments."""
    (tmp_path / "gunicorn.py").write_text("import sys; print(sys.argv[1:])")
    return str(tmp_path)


def test_check_prints_what_the_shipped_file_serves() -> None:
    """Check prints what the shipped file serves, as a table."""
    done = run("check", PUSH_KEYS="first-key,second-key")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "backend  memory://\n"
        "gives    history: until the process ends; workers: one\n"
        "keys     2\n"
        "origins  *\n"
        "\n"
        "channel      publish    subscribe  client_publish  history      max_message_size\n"
        "lebowski     operators  anyone     false           1000 for 1d  64KiB\n"
        "events       operators  anyone     true            1000 for 1d  64KiB\n"
        "orders       key        anyone     false           1000 for 1d  64KiB\n"
        "chat.{room}  key        anyone     false           1000 for 1d  64KiB\n"
    )


def test_check_takes_its_argument_before_the_environment(tmp_path: Path) -> None:
    """Check takes a file's path before the environment's."""
    path = tmp_path / "c.yaml"
    path.write_text(
        "origins: []\noperators: key\nauth: {keys: abcdefgh}\n"
        "channels: {a: {history: {size: 0}, max_message_size: 1001}}\n"
    )
    done = run("check", str(path), CHANNELS_CONFIG="/nowhere")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1:] == [
        "gives      history: until the process ends; workers: one",
        "keys       1",
        "origins    none",
        "operators  key",
        "",
        "channel  publish  subscribe  client_publish  history  max_message_size",
        "a        key      anyone     false           none     1001B",
    ]


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_wrong_file_is_one_line_for_each_problem(command: str, broken: str) -> None:
    """Command prints one line per problem on stderr and exits 1, without the URL's secrets."""
    done = run(command, CHANNELS_CONFIG=broken)
    assert (done.returncode, done.stdout) == (1, "")
    assert [line.partition(": ")[0] for line in done.stderr.splitlines()] == [f"{broken}:1:10", f"{broken}:3:16"]
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("command", ["check", "serve"])
def test_wrong_variables_are_named_and_exit_with_1(command: str) -> None:
    """Command names the variables that are wrong and exits 1."""
    done = run(command, PORT="abc", LOG_LEVEL="loud")
    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["PORT", "LOG_LEVEL"]


@pytest.mark.parametrize("command", ["check", "serve"])
def test_several_workers_on_memory_are_refused(command: str) -> None:
    """Command refuses memory:// with more than one worker."""
    done = run(command, WEB_CONCURRENCY="2")
    assert done.returncode == 1
    assert done.stderr.startswith("WEB_CONCURRENCY: 2 workers cannot share memory://")
    assert len(done.stderr.splitlines()) == 1


def test_serve_becomes_gunicorn_with_our_configuration(gunicorn: str) -> None:
    """Serve becomes gunicorn, with the project's configuration and application."""
    done = run("serve", PYTHONPATH=gunicorn)
    assert done.returncode == 0
    assert done.stdout.strip() == str(["-c", str(ROOT / "gunicorn.conf.py"), "app.main:create_app()"])


def test_options_are_taken_before_variables(gunicorn: str, tmp_path: Path) -> None:
    """Serve takes options before the environment, and its messages name whichever of the two said what is wrong."""
    missing = str(tmp_path / "none.yaml")
    variables = {"PORT": "abc", "WEB_CONCURRENCY": "2", "HOST": "::", "CHANNELS_CONFIG": missing}
    options = ("--port=8001", "--workers=1", "--host=127.0.0.1", "--config=config/channels.yaml")
    assert run("serve", *options, PYTHONPATH=gunicorn, **variables).returncode == 0
    for option, said in (
        ("--port=65536", '--port: must be a whole number from 0 to 65535, not "65536"'),
        ("--workers=0", '--workers: must be a whole number from 1 to 10000, not "0"'),
        ("--workers=2", "--workers: 2 workers cannot share memory://"),
        (f"--config={missing}", f"{missing}: cannot be read (No such file or directory): --config names the file"),
    ):
        done = run("serve", option)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
        assert done.stderr.startswith(said)
    assert run("check", missing).stderr == f"{missing}: cannot be read (No such file or directory)\n"
    assert "METRICS_PORT: is --port too (9000)" in run("serve", "--port=9000", METRICS_PORT="9000").stderr


def test_the_command_finds_its_checkout_from_anywhere(tmp_path: Path) -> None:
    """Command finds its checkout through symbolic links, and takes nobody else's package for its own."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text("raise SystemExit(7)")
    (tmp_path / "first").symlink_to(ABIDE)
    (tmp_path / "second").symlink_to("first")
    done = subprocess.run([tmp_path / "second", "--version"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"abide {__version__}\n", "")
    done = subprocess.run([tmp_path / "second", "check"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_checkout_without_an_environment_says_what_to_run(tmp_path: Path) -> None:
    """Command of a checkout that is not set up says what to run, in one line."""
    shutil.copytree(ROOT / "bin", tmp_path / "bin")
    done = subprocess.run([tmp_path / "bin" / "abide"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"abide: there is no .venv in {tmp_path} yet: run 'make -C {tmp_path} setup' once\n"


def test_an_environment_that_is_not_whole_says_what_to_run(tmp_path: Path) -> None:
    """Command of a checkout whose environment was left half made says what to run, in one line."""
    (tmp_path / "websockets.py").write_text("raise ModuleNotFoundError(name='websockets')")
    done = run("check", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("abide: the package 'websockets' is not in ")
    assert done.stderr.endswith(": run 'make setup' in the checkout\n")


def test_check_works_without_a_driver(tmp_path: Path) -> None:
    """Check judges a Postgres configuration without Postgres' driver, and shows no password."""
    (tmp_path / "asyncpg.py").write_text("raise ImportError")
    urls = {"DATABASE_URL": "postgres://me:hunter2@pooler/app", "DIRECT_DATABASE_URL": "postgres://me:hunter2@db/app"}
    done = run("check", PYTHONPATH=str(tmp_path), **urls)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == ["backend  postgres://***@pooler/app", "direct   postgres://***@db/app"]


def test_check_ends_in_silence_when_its_reader_leaves(tmp_path: Path) -> None:
    """Check ends without a word when nobody reads on, as in `check | head`."""
    path = tmp_path / "long.yaml"
    path.write_text("channels:\n" + "".join(f"  channel-{n}: {{}}\n" for n in range(3000)))
    command = ["bash", "-o", "pipefail", "-c", f"{ABIDE} check {path} | true"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def migrated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for the database: note each URL that is migrated; one of host ``away`` is not there."""
    urls: list[str] = []

    async def migrate(url: str) -> list[str]:
        urls.append(url)
        if "away" in url:
            msg = "the database does not answer"
            raise UnavailableError(msg)
        return ["001_messages", "002_keys"] if len(urls) == 1 else []

    monkeypatch.chdir(ROOT)
    for name in ("DATABASE_URL", "DIRECT_DATABASE_URL", "CHANNELS_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    stand_in = ModuleType("app.bus.postgres")
    monkeypatch.setattr(stand_in, "migrate", migrate, raising=False)
    monkeypatch.setattr("app.bus.postgres", stand_in, raising=False)
    monkeypatch.setitem(sys.modules, "app.bus.postgres", stand_in)
    return urls


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--prot", "1"], "abide serve: error: unrecognized arguments: --prot 1"),
        (["publish", "a", "the", "Dude"], "abide publish: error: unrecognized arguments: Dude (DATA is one argument:"),
    ],
)
def test_an_argument_too_many_is_told_with_the_commands_own_usage(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Command refuses what it does not know with its own usage, and exits with 2."""
    with pytest.raises(SystemExit, match=r"^2$"):
        main(arguments)
    shown = capsys.readouterr().err
    assert shown.startswith(f"usage: abide {arguments[0]} ")
    assert said in shown


def test_migrate_prints_what_it_applied(
    migrated: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Migrate prints what it applied, and the next time that there is nothing to do; it goes around a pooler."""
    monkeypatch.setenv("DATABASE_URL", "postgres://pooler/app")
    assert main(["migrate"]) == 0
    monkeypatch.setenv("DIRECT_DATABASE_URL", "postgres://db/app")
    assert main(["migrate"]) == 0
    assert migrated == ["postgres://pooler/app", "postgres://db/app"]
    assert capsys.readouterr() == ("applied 001_messages\napplied 002_keys\nthe schema is current\n", "")


def test_migrate_says_why_it_cannot_and_exits_1(
    migrated: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Migrate says why it cannot, and exits 1."""
    monkeypatch.setenv("DATABASE_URL", "postgres://away/app")
    assert main(["migrate"]) == 1
    assert capsys.readouterr() == ("", "the database does not answer\n")
    assert migrated == ["postgres://away/app"]


@pytest.mark.parametrize("engine", sorted(ENGINES.keys() - {"memory", "postgres"}))
def test_migrate_has_nothing_to_do_on_other_engines(
    migrated: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    engine: str,
) -> None:
    """Migrate succeeds where there is no schema: files of deployment run it whatever the engine is."""
    file = tmp_path / "channels.yaml"
    file.write_text("backend: ${DATABASE_URL}\nchannels: {news: {}}\n")
    monkeypatch.setenv("CHANNELS_CONFIG", str(file))
    monkeypatch.setenv(
        "DATABASE_URL", f"{engine}:///{tmp_path}/log" if engine == "sqlite" else f"{engine}://127.0.0.1:1"
    )
    assert main(["migrate"]) == 0
    assert capsys.readouterr().out.startswith("nothing to do")
    assert migrated == []


def test_a_file_that_cannot_be_the_log_is_one_line(tmp_path: Path) -> None:
    """Check and serve name a folder that is not there, and take it when it is; migrate has nothing to do."""
    url = {"DATABASE_URL": f"sqlite:///{tmp_path}/data/log.db", "PORT": "1"}
    for command in ("check", "serve"):
        done = run(command, **url)
        said = f"backend: the folder {tmp_path}/data does not exist: create it, or correct the path"
        assert (done.returncode, done.stderr) == (1, f"config/channels.yaml: {said}\n")
    (tmp_path / "data").mkdir()
    assert (
        "durable: it survives restarts and crashes; workers: any number, on one machine" in run("check", **url).stdout
    )
    assert (
        run("migrate", **url).stdout == "nothing to do: a server makes what it needs there, and brings it up to date\n"
    )


def test_migrate_refuses_a_backend_without_a_schema() -> None:
    """Migrate refuses a backend that has no schema, and exits 1."""
    done = run("migrate")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("config/channels.yaml: backend: is memory://, which has no schema")
    assert len(done.stderr.splitlines()) == 1


class Hostile(BaseHTTPRequestHandler):
    """Refuses everything with a text that would colour a terminal."""

    def do_POST(self) -> None:
        body = rb'{"detail": "\u001b[31mred\nmore", "code": "refused"}'
        self.send_response(400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_what_a_server_says_does_nothing_to_the_terminal() -> None:
    """Command shows a server's refusal in one line, in which nothing is left that a terminal obeys."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            done = run("publish", "a", "1", "--url", f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
    assert (done.returncode, done.stderr) == (1, "\\x1b[31mred\\nmore\n")


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (["publish", "a", "1"], {}, "cannot reach http://127.0.0.1:1: Connection refused"),
        (["publish", "a", "hello"], {}, "DATA is not JSON (expecting value at character 1). A text needs JSON"),
        (["publish", "a", "[b]"], {}, "DATA is not JSON (expecting value at character 2). Names and texts of JSON"),
        (["publish", "a", ""], {}, "DATA is not JSON (it is empty)"),
        (["publish", "a", "1", "--token-file", "/nowhere"], {}, "no token: No such file or directory: '/nowhere'"),
        (["publish", "a", "1", "--url", "here"], {}, "'here' is not a server's address: expected http://host:port"),
        (["migrate"], {"DATABASE_URL": "postgres://127.0.0.1:1/app"},
            "no connection to 127.0.0.1:1/app: Connection refused: nothing listens there: check that"),
        (["migrate"], {"DATABASE_URL": "'postgres://db'"},
            "DATABASE_URL: must be a URL that starts with memory://, postgres://, "),
        (["serve"], {"CHANNELS_CONFIG": str(ROOT)}, f"{ROOT}: cannot be read (Is a directory): CHANNELS_CONFIG names"),
        (["serve", "--host", "nowhere.invalid"], {}, "--host: cannot listen on nowhere.invalid:1: "),
        (["serve"], {"HOST": "1.2.3.4"}, "HOST: cannot listen on 1.2.3.4:1: Cannot assign requested address: write an"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_without_a_word_of_pythons(
    arguments: list[str], variables: dict[str, str], said: str
) -> None:
    """Command that cannot do what it was asked for says why in one line, without Python's words, and exits with 1."""
    done = run(*arguments, PORT="1", **variables)
    assert done.returncode == 1
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1
    assert "Errno" not in done.stderr


def test_schema_prints_the_json_schema() -> None:
    """Schema prints the JSON Schema of the file."""
    done = run("schema")
    assert done.returncode == 0
    assert json.loads(done.stdout) == json_schema()


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ([], ["serve", "check", "migrate", "schema"]),
        (["serve"], ["serve it under gunicorn", "--port PORT", "WEB_CONCURRENCY"]),
        (["check"], ["the YAML file", "CHANNELS_CONFIG"]),
        (["migrate"], ["Postgres schema"]),
        (["schema"], ["JSON Schema"]),
    ],
)
def test_every_command_explains_itself_with_help(
    arguments: list[str], fragments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Command and each subcommand explain themselves."""
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    out, _ = capsys.readouterr()
    assert all(fragment in out for fragment in fragments)


@pytest.mark.parametrize("arguments", [[], ["chekc"], ["check", "a", "b"], ["serve", "--fast"]])
def test_an_unknown_call_is_answered_with_its_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Command answers a call that it does not know with its usage and exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: abide")


def test_make_leaves_a_linked_environment_alone(tmp_path: Path) -> None:
    """Make takes a .venv that is a link as it is, however old, and clears nothing behind it."""
    shared, checkout = tmp_path / "shared", tmp_path / "checkout"
    shared.mkdir()
    (shared / "kept").touch()
    checkout.mkdir()
    (checkout / ".venv").symlink_to(shared)
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, checkout)
    done = subprocess.run(
        [shutil.which("make") or "make", "setup"], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in shared.iterdir()] == ["kept"]


@pytest.mark.parametrize("name", [name for name, engine in ENGINES.items() if engine.driver])
def test_a_missing_driver_is_one_line_that_names_its_package_and_extra(tmp_path: Path, name: str) -> None:
    """Check and serve end without the driver of the backend's engine, with one line that says what to install."""
    engine = ENGINES[name]
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules[{engine.driver!r}] = None")
    file = tmp_path / "channels.yaml"
    file.write_text(f"backend: {engine.schemes[0]}://h\nchannels: {{news: {{}}}}\n")  # of history it asks for nothing
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "CHANNELS_CONFIG": str(file)}
    for command in ("check", "serve"):
        done = subprocess.run(
            [ABIDE, command], capture_output=True, check=False, text=True, env=environment, cwd=ROOT, timeout=60
        )
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert f"needs the package '{engine.driver}'" in line
        assert f"extra '{engine.extra}'" in line

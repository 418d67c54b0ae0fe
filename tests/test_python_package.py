"""The Python client as a package: its wheel, installed into an empty environment, against a real server."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import __version__
from tests.support import processes
from tests.support.processes import ROOT
from tests.support.server import Server

UV = str(Path(sys.executable).with_name("uv"))
CHANNELS = """
backend: ${DATABASE_URL:-memory://}
auth: {keys: "first-key-1"}
channels:
  news: {publish: anyone}
  sealed: {publish: key}
"""

ASYNCHRONOUS = """
import asyncio
import sys
from contextlib import aclosing

from abide_client import ClientError, Gap, Message, publish, subscribe

url = sys.argv[1]


async def fetch_token() -> str:
    return "first-key-1"


async def main() -> None:
    first = await publish(url, "news", {"n": 1}, idempotency_key="once")
    assert first == await publish(url, "news", {"n": 1}, idempotency_key="once")
    await publish(url, "news", 2)
    await publish(url, "sealed", 3, key="first-key-1")
    await publish(url, "sealed", 4, token=fetch_token)
    gaps: list[Gap] = []
    async with aclosing(subscribe(url, "news", since="earliest", on_gap=gaps.append)) as messages:
        message: Message = await anext(messages)
        print(message.position == first, message.data, (await anext(messages)).data, gaps)
    try:
        await publish(url, "sealed", 5)
    except ClientError as error:
        print(error.status, error.code, error.detail)


asyncio.run(main())
"""

SYNCHRONOUS = """
import sys
import threading

from abide_client import ClientError
from abide_client.sync import publish, subscribe

url = sys.argv[1]
position: str = publish(url, "sealed", "sync 1", key="first-key-1")
publish(url, "sealed", "sync 2", key="first-key-1")
for message in subscribe(url, "sealed", since=position):
    print(message.data, message.raw)
    break
print([thread.name for thread in threading.enumerate()])
for bad in ("http://", url):
    try:
        next(subscribe(bad, "nothing"))
    except ClientError as error:
        print(error.status, error.code, error.detail)
"""

FOLLOWING = """
import sys

from abide_client.sync import subscribe


def notice(sentence: str) -> None:
    print(sentence.split(":")[0], flush=True)


try:
    for message in subscribe(sys.argv[1], "news", since="earliest", on_notice=notice):
        print(message.data, flush=True)
except KeyboardInterrupt:
    print("left", flush=True)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel as ``make packages`` does."""
    folder = tmp_path_factory.mktemp("dist")
    build = (sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder))
    subprocess.run(build, cwd=ROOT / "clients/python", check=True, capture_output=True, timeout=30)
    return next(folder.glob("abide_client-*-py3-none-any.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment that has the package, and websockets, which it says it needs."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run((UV, "venv", "--offline", "--quiet", "--python", sys.executable, str(folder / "venv")), check=True)
    python = folder / "venv/bin/python"
    install = (UV, "pip", "install", "--offline", "--quiet", "--no-deps", "--python", str(python), str(wheel))
    subprocess.run(install, check=True, timeout=30)
    packages, installed = next((folder / "venv/lib").glob("*/site-packages")), Path(sysconfig.get_path("platlib"))
    for name in ("websockets", f"websockets-{importlib.metadata.version('websockets')}.dist-info"):
        shutil.copytree(installed / name, packages / name)
    subprocess.run((UV, "pip", "check", "--quiet", "--python", str(python)), check=True, timeout=30)
    return python


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(channels=CHANNELS) as server:
        yield server


def run(python: Path, script: str, *arguments: str) -> list[str]:
    """Run a script away from the checkout, which warns of nothing that it left open, and return the lines it prints."""
    command = (str(python), "-I", "-W", "default", "-c", script, *arguments)
    done = subprocess.run(command, cwd=python.parent, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_an_asynchronous_program_uses_the_package(python: Path, server: Server) -> None:
    """Program publishes once for each idempotency key, with a key and a token, reads it back, and is told why not."""
    read, refused = run(python, ASYNCHRONOUS, server.url)
    assert read == "True {'n': 1} 2 []"
    assert refused.startswith("401 unauthorised ")


def test_a_synchronous_program_uses_the_package(python: Path, server: Server) -> None:
    """Program does the same without await; after it left the loop no thread of the client is there."""
    read, threads, no_address, unknown = run(python, SYNCHRONOUS, server.url)
    assert read == 'sync 2 "sync 2"'
    assert threads == "['MainThread']"
    assert no_address.startswith("None None 'http://' is not a server's address")
    assert unknown.startswith("404 unknown_channel ")


def test_a_synchronous_subscription_resumes_and_ends_with_ctrl_c(python: Path, database_url: str) -> None:
    """Subscriber misses nothing while the server's processes are replaced, and Ctrl-C is what it is everywhere."""
    pipe = subprocess.PIPE
    publishing = "from abide_client.sync import publish; import sys; publish(sys.argv[1], 'news', int(sys.argv[2]))"
    with Server(channels=CHANNELS, env={"DATABASE_URL": database_url}, ready_path="/health/ready") as server:
        command = (str(python), "-I", "-c", FOLLOWING, server.url)
        following = processes.launch(command, {}, stdout=pipe, stderr=pipe, encoding="utf-8")
        try:
            assert following.stdout is not None
            run(python, publishing, server.url, "1")
            assert following.stdout.readline() == "1\n"
            server.send_signal(signal.SIGHUP)
            assert following.stdout.readline() == "not connected\n"
            run(python, publishing, server.url, "2")
            assert {following.stdout.readline(), following.stdout.readline()} > {"2\n"}
            following.send_signal(signal.SIGINT)
            output, errors = following.communicate(timeout=20)
        finally:
            processes.kill(following)
    assert (output, errors, following.returncode) == ("left\n", "", 0)


def test_the_package_is_typed_for_its_users(python: Path, tmp_path: Path) -> None:
    """Scripts pass a strict type checker that knows nothing of the checkout, and a wrong one does not."""
    (tmp_path / "first.py").write_text(ASYNCHRONOUS)
    (tmp_path / "second.py").write_text(SYNCHRONOUS)
    (tmp_path / "wrong.py").write_text(
        "from abide_client.sync import publish\nn: int = publish('http://x', 'news', 1)\n"
    )
    checker = ("mypy", "--strict", "--no-error-summary", "--config-file=", "--python-executable", str(python))
    command = (sys.executable, "-m", *checker, "first.py", "second.py", "wrong.py")
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert [line.partition(": ")[0] for line in done.stdout.splitlines()] == ["wrong.py:2"], done.stdout + done.stderr


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    """Wheel has the server's version, one dependency, and the mark of a typed package."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"abide_client-{__version__}.dist-info/METADATA").decode()
        assert "abide_client/py.typed" in archive.namelist()
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    assert [line.partition(">")[0] for line in needed] == ["Requires-Dist: websockets"]


def test_installing_the_checkout_says_what_to_do(python: Path) -> None:
    """Checkout is no package: installing it fails with one sentence, which names the command and the client."""
    install = (UV, "pip", "install", "--offline", "--no-deps", "--python", str(python), str(ROOT))
    done = subprocess.run(install, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert "Abide's server is not installed: it runs from its checkout." in done.stderr
    assert "pip install ./clients/python" in done.stderr

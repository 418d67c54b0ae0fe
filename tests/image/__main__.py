"""``make image``: build the image with what is there, run it as strictly as a platform may, and try it out."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.image.engine import Container, Engine, ImageError
from tests.support.dockerfile import Dockerfile
from tests.support.processes import ROOT, free_port

MEGABYTE = 1_000_000
LARGEST = 80 * MEGABYTE  # of all layers above the base
READY_WITHIN = 3  # seconds
DRAIN_SECONDS = 2
ENDS_WITHIN = DRAIN_SECONDS + 10  # seconds: gunicorn's graceful_timeout
OTHER_USER = "54321:0"  # OpenShift and Heroku choose such a one, of which /etc/passwd knows nothing
RESTARTING = 1012
KEY = "image-key-1"


def main() -> int:
    """Build and check; return the exit code."""
    parser = argparse.ArgumentParser(prog="make image", description=__doc__)
    parser.add_argument("--tag", required=True)
    parser.add_argument("--build-args", type=shlex.split, required=True)
    parser.add_argument("--run-args", type=shlex.split, required=True)
    options = parser.parse_args()
    try:
        engine = Engine.find(options.build_args, options.run_args)
        base = base_of(options.build_args)
        engine.fetch(base)
        engine.build(ROOT, options.tag)
        check_layers(engine, options.tag, base)
        check_commands(engine, options.tag)
        check_serving(engine, options.tag)
        check_mounted_file(engine, options.tag)
    except (ImageError, OSError, httpx.HTTPError) as error:
        say(f"image: {error}")
        return 1
    return 0


def base_of(build_args: list[str]) -> str:
    """Return the image that the build begins with: the Dockerfile's own, or what the arguments give as BASE."""
    given = [argument.removeprefix("--build-arg=").partition("=") for argument in build_args]
    return next((value for name, _, value in given if name == "BASE"), *Dockerfile().bases)


def check_layers(engine: Engine, image: str, base: str) -> None:
    """Check that what is above the base is small, and does not run as root."""
    added = engine.size(image) - engine.size(base)
    demand(added <= LARGEST, f"{added / MEGABYTE:.1f} MB above {base}, at most {LARGEST / MEGABYTE:.0f}")
    user = engine.user(image)
    demand(user.partition(":")[0].isdigit() and user != "0", f"runs as {user}")


def check_commands(engine: Engine, image: str) -> None:
    """Check that its arguments are a command of Abide's."""
    with Container(engine, image, arguments=("check",)) as container:
        demand(container.wait() == 0 and "lebowski" in container.log(), "`docker run abide check` checks")


def check_serving(engine: Engine, image: str) -> None:
    """Check that it serves with nothing to write to and no privilege, and that a stop drains it."""
    port = free_port()
    with Container(engine, image, f"--env=PUSH_KEYS={KEY}", *listening(port)) as container:
        ready(container, port)
        listed = container.execute("ls", "-A", "/app").stdout.split()
        demand(
            listed == [".venv", "app", "bin", "config", "gunicorn.conf.py"],
            f"/app has {' '.join(listed)} and nothing else",
        )
        demand(container.execute("abide", "check").returncode == 0, "abide is a command")
        demand(container.execute("touch", "/app/x").returncode != 0, "the file system is read-only")
        demand(container.execute(*Dockerfile().health).returncode == 0, "its health check passes")
        for path in ("/", "/client.js"):
            demand(httpx.get(f"http://127.0.0.1:{port}{path}").is_success, f"{path} is served")
        for path in ("/channels", "/docs", "/metrics", "/openapi.json"):
            status = httpx.get(f"http://127.0.0.1:{port}{path}").status_code
            demand(status == HTTPStatus.UNAUTHORIZED, f"{path} needs a key")
        refused = httpx.post(f"http://127.0.0.1:{port}/push/lebowski", json=0)
        demand(refused.status_code == HTTPStatus.UNAUTHORIZED, "a push without a key is refused")
        drains(container, port, "lebowski")


def check_mounted_file(engine: Engine, image: str) -> None:
    """Check that a channels.yaml mounted over the shipped one is served, and watched, whoever it runs as."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "channels.yaml")
        path.write_text("channels: {first: {publish: anyone}}\n")
        mount = f"--volume={path}:/app/config/channels.yaml:ro"
        with Container(engine, image, f"--user={OTHER_USER}", mount, *listening(port)) as container:
            ready(container, port)
            path.write_text("channels: {second: {publish: anyone}}\n")
            push = f"http://127.0.0.1:{port}/push/second"
            waits_for(lambda: httpx.post(push, json=0).is_success, "a changed channels.yaml is applied")
            drains(container, port, "second")


def drains(container: Container, port: int, channel: str) -> None:
    """Push a message to a subscriber, then stop: it is told to come back, and the container ends cleanly, in time."""
    with connect(f"ws://127.0.0.1:{port}/{channel}") as subscriber:
        headers = {"authorization": f"Bearer {KEY}"}
        httpx.post(f"http://127.0.0.1:{port}/push/{channel}", json="hello", headers=headers).raise_for_status()
        demand(subscriber.recv(timeout=10) == '"hello"', "a subscriber gets what is pushed")
        container.terminate()
        began = time.monotonic()
        try:
            subscriber.recv(timeout=ENDS_WITHIN)
        except ConnectionClosed as closed:
            demand(closed.rcvd is not None and closed.rcvd.code == RESTARTING, f"SIGTERM closes it: {closed}")
    code = container.wait()
    took = time.monotonic() - began
    demand(code == 0 and took < ENDS_WITHIN, f"ended with {code}, {took:.1f} s after SIGTERM")


def ready(container: Container, port: int) -> None:
    """Wait until it may take traffic; check that this does not take long."""

    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health/ready").is_success
        except httpx.TransportError:
            return False

    waits_for(answers, "it is ready")
    age = container.age
    demand(age <= READY_WITHIN, f"{age:.1f} s from its start to ready, at most {READY_WITHIN}")


def listening(port: int) -> list[str]:
    """Return the arguments for a container on this port; the same inside, for an engine on the host's network."""
    return [f"--publish=127.0.0.1:{port}:{port}", f"--env=PORT={port}", f"--env=DRAIN_SECONDS={DRAIN_SECONDS}"]


def waits_for(condition: Callable[[], bool], what: str) -> None:
    """Return when it holds; raise :class:`ImageError` after 30 seconds."""
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            demand(met=False, what=what)
        time.sleep(0.05)
    demand(met=True, what=what)


def demand(met: bool, what: str) -> None:  # noqa: FBT001 — `demand(it is so, "it is so")` is how it reads
    """Say what was found; raise :class:`ImageError` if it is not as it should be."""
    if not met:
        msg = f"not so: {what}"
        raise ImageError(msg)
    say(f"ok   {what}")


def say(text: str) -> None:
    """Tell the person who runs it."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 — the output of a command


if __name__ == "__main__":
    sys.exit(main())

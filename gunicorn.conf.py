"""gunicorn's settings. Executed by the master at start."""

import errno
import os
import socket
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

from app.bus.seen import Seen
from app.config import (
    LAST_GOOD,
    OPTIONS,
    ConfigError,
    Environment,
    Option,
    Settings,
    check_deployment,
    first_of,
    load,
    most_workers,
)
from app.open_backend import check_backend
from app.server import garbage
from app.server.master import gunicorn_options, listening
from app.server.master.arbiter import Master
from app.server.master.freeze import outlive_freezes
from app.server.worker import STOP_SECONDS, AbideWorker
from app.telemetry import GunicornLogger, announce, announce_warnings, configure_logging
from app.telemetry.directory import make_directory


def _checked_configuration() -> tuple[Environment, Settings]:
    """Return the environment, and the settings in it.

    A configuration that cannot be served ends the process here, before any worker starts.
    """
    try:
        given = gunicorn_options.read()
        if "workers" in given:
            OPTIONS.add("WEB_CONCURRENCY", Option(given["workers"].place, str(given["workers"].value)))
        environment = Environment.read(os.environ)
        settings = load(environment)
        check_deployment(environment, settings)
        check_backend(settings)
    except gunicorn_options.OptionError as error:
        lines = [str(error)]
    except ConfigError as error:
        lines = error.summary()
    else:
        return environment, settings
    print("\n".join(lines), file=sys.stderr)  # noqa: T201 — lines for a person, not for the log
    sys.exit(1)


def _host(host: str) -> str:
    """Return the address to bind: ``::`` takes IPv4, too; without IPv6 it falls back to 0.0.0.0."""
    host = host.strip("[]")
    return "0.0.0.0" if host == "::" and not _has_ipv6() else host  # noqa: S104 — HOST=:: asks for it


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tell_addresses(listeners: Sequence[socket.socket]) -> None:
    """Tell a person where the server is: once, when its first worker serves."""
    for url in filter(None, map(listening.url, listeners)):
        page = f"{url}{_environment.root_path}"
        announce(f"console: {page}/ · API: {page}/docs" if _has_console else f"server: {page}/")


_OF_PORTS = {
    errno.EADDRINUSE: "stop what listens there, or set another port",
    errno.EACCES: "only root may use ports below 1024: set a higher one",
}
"""What to do about errors that are about the port; all others are about the host."""


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


# From now on a worker that starts while channels.yaml is broken serves the last good config. Only at the first start
# there is none.
LAST_GOOD.share()
Seen.share()
_environment, _settings = _checked_configuration()
_most_workers, _warnings, _has_console = most_workers(_settings), first_of(_settings.warnings), _settings.console
_engine = _settings.backend.engine.name
del _settings  # thousands of channels may be in it
configure_logging(_environment.log_format, _environment.log_level)

wsgi_app = "app.main:create_app()"
proc_name = "abide"
bind = [_address(_host(_environment.host), _environment.port)]
workers = _environment.workers
AbideWorker.drain_seconds = _environment.drain_seconds
AbideWorker.on_started = staticmethod(_tell_addresses)
AbideWorker.max_connection_age = _environment.max_connection_age or None
worker_class = AbideWorker
logger_class = GunicornLogger
loglevel = _environment.log_level

# Seconds. The drain ends before graceful_timeout, and that before the platform's kill timeout.
graceful_timeout = _environment.drain_seconds + STOP_SECONDS
timeout = 30  # seconds: a worker whose event loop does not move for so long is replaced
keepalive = 75  # longer than the idle limit of the proxies before us, so that they close first

# gunicorn would count requests, health checks among them, and end the worker with all its connections.
max_requests = 0

# Each worker builds its own event loop, backend connections and caches; on_starting imports what they share.
preload_app = False

# No socket for remote control: nobody uses it.
control_socket_disable = True

# Workers touch a file as their heartbeat. In memory, so that a slow disk does not look like a dead worker.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: PTH112, S108 — kept plain


# The workers' numbers are files, too, so that counts outlive a worker. Import prometheus_client only once their
# directory is known.


def on_starting(arbiter: Arbiter) -> None:
    """Make an empty directory for the numbers, import the application, bind METRICS_PORT; exit if one of them fails.

    Workers inherit the imported modules by fork: they share the memory, and a replacement starts fast. So SIGHUP brings
    new workers, but not new code.
    """
    Master.take_over(arbiter, _most_workers)
    outlive_freezes(arbiter)
    _check_port(_host(_environment.host), _environment.port)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = make_directory(worker_tmp_dir)
    import_module("app.main").preload(_engine)
    announce_warnings(_warnings)
    if _environment.metrics_port:
        _take_port(_host(_environment.host), _environment.metrics_port)
    garbage.share()


def _check_port(host: str, port: int) -> None:
    try:
        listening.check(host, port)
    except OSError as error:
        _cannot_listen("PORT" if error.errno in _OF_PORTS else "HOST", host, port, error)


def _take_port(host: str, port: int) -> None:
    from app.telemetry.exporter import Exporter  # noqa: PLC0415 — see above
    from app.web.edge.loopback import is_here  # noqa: PLC0415 — the application imports it, too

    try:
        Exporter(host, port, is_here if _environment.on_loopback else None).start()
    except OSError as error:
        _cannot_listen("METRICS_PORT", host, port, error)


def _cannot_listen(variable: str, host: str, port: int, error: OSError) -> NoReturn:
    reason = str(error.strerror).partition(" (")[0]
    to_do = _OF_PORTS.get(error.errno or 0, "write an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all")
    line = f"{OPTIONS.name(variable)}: cannot listen on {_address(host, port)}: {reason}: {to_do}"
    print(line, file=sys.stderr)  # noqa: T201 — as above
    sys.exit(1)


def on_exit(_: Arbiter) -> None:
    """Leave the line of a terminal on which ^C was echoed."""
    announce("")


def post_fork(_: Arbiter, __: Worker) -> None:
    """Close METRICS_PORT in the worker: it belongs to the master."""
    from app.telemetry.exporter import Exporter  # noqa: PLC0415 — see above

    Exporter.leave()


def child_exit(_: Arbiter, worker: Worker) -> None:
    """Forget what only a living worker has: its subscribers."""
    from app.telemetry.exporter import forget  # noqa: PLC0415 — see above

    forget(int(worker.pid))

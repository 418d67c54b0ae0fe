"""gunicorn's settings. Executed by the master at start, and again on SIGHUP."""

import os
import socket
import sys

from app.config import ConfigError, Environment, check_deployment, load
from app.server.worker import STOP_SECONDS, AbideWorker
from app.telemetry import GunicornLogger, configure_logging


def _checked_environment() -> Environment:
    """Return the environment; a configuration that cannot be served ends the process here, before any worker starts."""
    try:
        environment = Environment.read(os.environ)
        check_deployment(environment, load(environment))
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201 — lines for a person or an editor, not for the log
        sys.exit(1)
    return environment


def _address(host: str, port: int) -> str:
    """Return what to bind to: ``[::]`` takes IPv4 too; where IPv6 is off, it falls back to 0.0.0.0."""
    if host.strip("[]") == "::" and not _has_ipv6():
        host = "0.0.0.0"  # noqa: S104 — asked for by HOST=::
    return f"[{host.strip('[]')}]:{port}" if ":" in host else f"{host}:{port}"


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


_environment = _checked_environment()
configure_logging(_environment.log_format, _environment.log_level)

wsgi_app = "app.main:create_app()"
proc_name = "abide"
bind = [_address(_environment.host, _environment.port)]
workers = _environment.workers
AbideWorker.drain_seconds = _environment.drain_seconds
AbideWorker.max_connection_age = _environment.max_connection_age or None
worker_class = AbideWorker
logger_class = GunicornLogger
loglevel = _environment.log_level

# Seconds. The drain ends before graceful_timeout, and that before the platform's kill timeout.
graceful_timeout = _environment.drain_seconds + STOP_SECONDS
timeout = 30  # a worker whose event loop stands still this long is replaced
keepalive = 75  # longer than the idle limit of the proxies before us, so that they close first

# It counts requests, health checks among them, and ends a worker with all its connections.
max_requests = 0

# Each worker builds its own event loop, backend links and caches: there is nothing to share.
preload_app = False

# A socket for remote control that nobody here uses.
control_socket_disable = True

# The workers' heartbeat is a file that is touched: in memory, a slow disk cannot look like a dead worker.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: PTH112, S108 — kept plain

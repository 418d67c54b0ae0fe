"""What gunicorn is told besides its settings file: on its command line, and by GUNICORN_CMD_ARGS.

It goes before the file, so it could undo what Abide has checked and set: where the server listens, who is on
loopback, from which directory it reads, what workers share. So only options are taken that cannot.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gunicorn.config import Config

_VARIABLE = "GUNICORN_CMD_ARGS"

_TAKEN = frozenset({
    "config", "check_config", "print_config", "workers", "timeout", "keepalive", "backlog", "pidfile", "proc_name",
    "worker_tmp_dir", "forwarded_allow_ips", "loglevel", "accesslog", "access_log_format", "errorlog",
    "capture_output", "control_socket_disable",
})  # fmt: skip

_INSTEAD: Mapping[str, str] = {
    "bind": "set HOST and PORT",
    "chdir": "set CHANNELS_CONFIG",
    "daemon": "let a supervisor such as systemd run it",
    "graceful_timeout": "set DRAIN_SECONDS",
    "raw_env": "set the variable itself",
}
"""What to do in place of some of the other options; the rest have nothing that would do."""


class OptionError(Exception):
    """Options were given that Abide does not take; ``str()`` is a line for each, with what to do."""


class Given(NamedTuple):
    """The value of an option, and what the user calls the place: ``--workers``, ``GUNICORN_CMD_ARGS: --workers``."""

    place: str
    value: Any


def read() -> dict[str, Given]:
    """Return the options that were given, by gunicorn's names for its settings; raise :class:`OptionError`."""
    config = Config()
    # In the order in which gunicorn takes them: the later go before the earlier.
    return {
        **_given(config, config.get_cmd_args_from_env(), f"{_VARIABLE}: ", _TAKEN),
        # Who runs gunicorn itself may have a worker of their own.
        **_given(config, sys.argv[1:], "", _TAKEN | {"worker_class"}),
    }


def _given(config: Config, arguments: Sequence[str], place: str, taken: frozenset[str]) -> dict[str, Given]:
    values = vars(config.parser().parse_args(arguments))
    del values["args"]
    given = {name: Given(place + _option(config, name), value) for name, value in values.items() if value is not None}
    refused = [
        f"{option.place}: Abide does not take this option of gunicorn's: {_INSTEAD.get(name, 'leave it out')}"
        for name, option in given.items()
        if name not in taken
    ]
    if refused:
        raise OptionError("\n".join(refused))
    return given


def _option(config: Config, name: str) -> str:
    spellings = config.settings[name].cli
    return spellings[-1] if spellings else name

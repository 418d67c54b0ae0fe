"""The gunicorn options that a user may give, on the command line or in GUNICORN_CMD_ARGS.

They override the settings file, so they could undo what Abide has checked and set: where the server listens, who is on
loopback, from which directory it reads, what workers share. Only options that cannot do that are accepted.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
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
"""What to do instead of giving some of the other options."""


class OptionError(Exception):
    """Options that Abide does not take were given; ``str()`` has a line for each, with what to do."""


class Given(NamedTuple):
    """The value of an option, and where it was given: ``--workers`` or ``GUNICORN_CMD_ARGS: --workers``."""

    place: str
    value: Any


def read() -> dict[str, Given]:
    """Return the given options, by gunicorn's names of its settings. Raises :class:`OptionError`."""
    config = Config()
    # In the order in which gunicorn reads them: later ones override earlier ones.
    return {
        **_given(config, config.get_cmd_args_from_env(), f"{_VARIABLE}: ", _TAKEN),
        # Users who run gunicorn itself may have a worker class of their own.
        **_given(config, sys.argv[1:], "", _TAKEN | {"worker_class"}),
    }


def _checked(config: Config, arguments: Sequence[str], place: str) -> dict[str, Any]:
    """Return the values of options by name; gunicorn checks a value only later, and does not say where it was given."""
    values = vars(config.parser().parse_args(arguments))
    del values["args"]
    for name, value in values.items():
        try:
            if value is not None:
                config.set(name, value)
        except (ValueError, TypeError) as error:
            msg = f"{place}{_option(config, name)}: {error}"
            raise OptionError(msg) from None
    folder = values["worker_tmp_dir"]
    if folder is not None and not Path(folder).is_dir():
        msg = f"{place}{_option(config, 'worker_tmp_dir')}: there is no folder {folder}"
        raise OptionError(msg)
    return values


def _given(config: Config, arguments: Sequence[str], place: str, taken: frozenset[str]) -> dict[str, Given]:
    values = _checked(config, arguments, place)
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

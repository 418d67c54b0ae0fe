"""The commands: ``serve``, ``check``, ``migrate`` and ``schema``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from app.config import ConfigError, Environment, Problem, Settings, check_deployment, json_schema, load, mask
from app.config.units import write_duration, write_size
from app.core.channel import Channel
from app.core.errors import UnavailableError

_ROOT = Path(__file__).resolve().parent.parent
_HEADER = ("channel", "publish", "subscribe", "client_publish", "history", "max_message_size")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0, 1 when it cannot be done, 2 for a wrong call."""
    options = _parser().parse_args(arguments)
    try:
        match options.command:
            case "serve":
                serve()
            case "check":
                check(options.file)
            case "migrate":
                migrate()
            case _:
                schema()
        sys.stdout.flush()
    except (ConfigError, UnavailableError) as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader has seen enough, as in `check | head`: at exit Python would write the rest once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def serve() -> None:
    """Check the configuration, then become gunicorn; raise :class:`ConfigError`."""
    environment = Environment.read()
    check_deployment(environment, load(environment))
    sys.stdout.flush()
    sys.stderr.flush()
    config = str(_ROOT / "gunicorn.conf.py")
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "-c", config, "app.main:create_app()"])  # noqa: S606 — no shell is meant


def check(file: Path | None) -> None:
    """Print what would be served, secrets masked; raise :class:`ConfigError`."""
    environment = Environment.read()
    if file is not None:
        environment = replace(environment, channels_config=file)
    settings = load(environment)
    check_deployment(environment, settings)
    print("\n".join(_summary(settings)))


def migrate() -> None:
    """Bring the database's schema up to date; raise :class:`ConfigError` or :class:`UnavailableError`."""
    settings = load(Environment.read())
    if settings.backend_kind != "postgres":
        message = f"is {settings.backend_kind}://, which has no schema: set DATABASE_URL to that of a Postgres"
        raise ConfigError([Problem(str(settings.path), 0, 0, "backend", message)])
    from app.bus import postgres  # noqa: PLC0415 — the other commands need no driver

    applied = asyncio.run(postgres.migrate(settings.direct_url or settings.backend))
    print("\n".join(f"applied {name}" for name in applied) or "the schema is current")


def schema() -> None:
    """Print the JSON Schema of the YAML file."""
    print(json.dumps(json_schema(), indent=2))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app", description="Abide, a realtime channels server.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    _add(commands, "serve", "check the configuration and serve it under gunicorn")
    checker = _add(commands, "check", "check a configuration and print what would be served, secrets masked")
    checker.add_argument(
        "file", type=Path, nargs="?", help="the YAML file (default: CHANNELS_CONFIG, else config/channels.yaml)"
    )
    _add(commands, "migrate", "create or upgrade the Postgres schema")
    _add(commands, "schema", "print the JSON Schema of the YAML file, for editors")
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, does: str
) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")


def _summary(settings: Settings) -> Iterable[str]:
    direct = [("direct", mask(settings.direct_url))] if settings.direct_url else []
    yield from _table(
        [
            ("backend", mask(settings.backend)),
            *direct,
            ("keys", str(len(settings.keys))),
            ("origins", ", ".join(settings.origins) or "none"),
        ]
    )
    yield ""
    yield from _table([_HEADER, *map(_row, settings.registry.channels)])
    if settings.warnings:
        yield ""
    yield from (f"warning: {warning}" for warning in settings.warnings)


def _row(channel: Channel) -> tuple[str, ...]:
    history = channel.history
    return (
        channel.name,
        channel.publish,
        channel.subscribe,
        str(channel.client_publish).lower(),
        f"{history.size} for {write_duration(history.ttl)}" if history.size else "none",
        write_size(channel.max_message_size),
    )


def _table(rows: Sequence[tuple[str, ...]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

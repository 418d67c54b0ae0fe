"""The commands of the server, and ``publish`` and ``subscribe``, which talk to a running server."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http
import json
import os
import runpy
import shlex
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from app import COMMAND, __version__, client, token_command
from app.config import (
    OPTIONS,
    ConfigError,
    Diagnostic,
    Environment,
    Option,
    Settings,
    check_deployment,
    json_schema,
    load,
    mask,
)
from app.config.values.units import write_duration, write_size
from app.core.channel import Channel
from app.core.errors import UnavailableError
from app.open_backend import check_backend

_ROOT = Path(__file__).resolve().parent.parent
_QUOTES = {"publish": " (DATA is one argument: put it in quotes)"}
_HEADER = ("channel", "publish", "subscribe", "client_publish", "history", "max_message_size")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 if it failed, 2 for wrong arguments."""
    options = _options(arguments)
    OPTIONS.take(_instead_of_variables(options))
    try:
        match options.command:
            case "serve":
                serve()
            case "check":
                check()
            case "migrate":
                migrate()
            case "token":
                text, code = token_command.run(options)
                print(text, flush=True)
                return code
            case "publish":
                publish(options)
            case "subscribe":
                subscribe(options)
            case _:
                schema()
        sys.stdout.flush()
    except (ConfigError, UnavailableError, client.ClientError, token_command.TokenCommandError) as error:
        print(_refusal(error, options) if isinstance(error, client.ClientError) else error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # as shells do
    except BrokenPipeError:
        # The reader has gone, as in `check | head`. Python would try to write the rest again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def serve() -> None:
    """Become gunicorn, whose settings check the configuration.

    It runs in this process: a new one would import everything again.
    """
    sys.argv[1:] = ["-c", str(_ROOT / "gunicorn.conf.py"), "app.main:create_app()"]
    runpy.run_module("gunicorn", run_name="__main__", alter_sys=True)


def check() -> None:
    """Print what would be served, with secrets masked; raise :class:`ConfigError`."""
    environment = Environment.read()
    settings = load(environment)
    check_deployment(environment, settings)
    check_backend(settings)
    print("\n".join(_summary(settings)))


def migrate() -> None:
    """Bring the database's schema up to date; raise :class:`ConfigError` or :class:`UnavailableError`."""
    settings = load(Environment.read())
    if (engine := settings.backend.engine.name) == "memory":
        message = "is memory://, which has no schema: set DATABASE_URL to the URL of a Postgres"
        raise ConfigError([Diagnostic(str(settings.path), 0, 0, "backend", message)])
    if engine != "postgres":
        print("nothing to do: a server makes what it needs there, and brings it up to date")
        return
    from app.bus import postgres  # noqa: PLC0415 — the other commands need no driver

    applied = asyncio.run(postgres.migrate(settings.backend.direct_url or settings.backend.url))
    print("\n".join(f"applied {name}" for name in applied) or "the schema is current")


def publish(options: argparse.Namespace) -> None:
    """Publish the given bytes as one message and print its position; raise :class:`ClientError`."""
    given = options.data == "-"
    body = sys.stdin.buffer.read().removesuffix(b"\n") if given else os.fsencode(options.data)
    try:
        _check_json(body)
    except ValueError as error:
        command = shlex.join(["publish", options.channel, json.dumps(options.data, ensure_ascii=False)])
        hint = f". A text needs JSON quotes: {COMMAND} {command}"
        if options.data.lstrip().startswith(("{", "[", "'")):
            hint = """. Names and texts of JSON are in double quotes, as in '{"the": "Dude"}'"""
        hint = "" if given else hint
        msg = f"{'stdin' if given else 'DATA'} is not JSON ({error}){hint}"
        raise client.ClientError(msg) from None
    print(asyncio.run(client.publish(options.url, options.channel, body, token=_credential(options))))


def subscribe(options: argparse.Namespace) -> None:
    """Print messages until Ctrl-C, or until the output is closed; raise :class:`ClientError`."""
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(_follow(options))


def schema() -> None:
    """Print the JSON Schema of the YAML file."""
    print(json.dumps(json_schema(), indent=2))


async def _follow(options: argparse.Namespace) -> None:
    _end_with_reader()
    if sys.stdout.isatty() and sys.stderr.isatty():
        _say(f"waiting for messages of {options.channel} at {options.url}; Ctrl-C ends")
    messages = client.subscribe(
        options.url,
        options.channel,
        since=options.since,
        last=options.last,
        token=_credential(options),
        on_gap=lambda gap: _say(f"gap ({gap.reason}): {_missing(gap)}"),
        on_notice=_say,
    )
    async with contextlib.aclosing(messages):
        async for message in messages:
            sys.stdout.buffer.write(_line(message, as_object=options.json).encode("utf-8", "surrogateescape") + b"\n")
            sys.stdout.buffer.flush()


def _missing(gap: client.Gap) -> str:
    is_nowhere = gap.next == client.NOWHERE
    return "messages may be missing" if is_nowhere else f"nothing between {gap.after} and {gap.next}"


def _credential(options: argparse.Namespace) -> client.Token | None:
    """Return the key or the token to send; a file is read anew whenever another token is needed."""
    if options.token_file is None:
        return options.key or os.environ.get("ABIDE_TOKEN")
    path = Path(options.token_file)

    def read() -> str:
        if text := path.read_text(encoding="utf-8").strip():
            return text
        msg = f"{path} is empty"
        raise ValueError(msg)

    return read


def _line(message: client.Message, *, as_object: bool) -> str:
    """Return the data as published, on one line: line breaks, which JSON has only between tokens, become spaces."""
    data = message.raw.replace("\r", " ").replace("\n", " ")
    if not as_object:
        return data
    before = {"channel": message.channel, "position": message.position, "time": message.time}
    return f'{json.dumps(before)[:-1]}, "data": {data}}}'


def _end_with_reader() -> None:
    """Cancel this task when the reader of a pipe on stdout goes away, even if there is nothing to write."""
    task = asyncio.current_task()
    if task is not None and stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode):
        asyncio.get_running_loop().add_reader(sys.stdout.fileno(), task.cancel)


def _say(text: str) -> None:
    print(_printable(text), file=sys.stderr, flush=True)


def _printable(text: str) -> str:
    """Return what a server says with an escape for whatever could move the cursor or colour the terminal."""
    from app.telemetry.console import printable  # noqa: PLC0415 — it takes gunicorn, which most commands need not wait for

    return printable(text)


def _refusal(error: client.ClientError, options: argparse.Namespace) -> str:
    is_anonymous = error.status == http.HTTPStatus.UNAUTHORIZED and _credential(options) is None
    return _printable(f"{error}; set ABIDE_TOKEN, or give --token-file" if is_anonymous else str(error))


def _check_json(body: bytes) -> None:
    """Raise ValueError unless it is JSON. Data that is nested too deep for Python is left to the server."""
    try:
        json.loads(body.decode(), parse_int=float, parse_constant=_refuse_constant)
    except RecursionError:
        pass
    except UnicodeDecodeError as error:
        msg = f"it is not UTF-8: byte {error.start + 1} is 0x{body[error.start]:02x}"
        raise ValueError(msg) from None
    except json.JSONDecodeError as error:
        msg = (
            "it is empty" if not body.strip() else f"{error.msg[0].lower()}{error.msg[1:]} at character {error.pos + 1}"
        )
        raise ValueError(msg) from None


def _refuse_constant(name: str) -> NoReturn:
    msg = f"JSON has no {name}"
    raise ValueError(msg)


_PLACES = {"host": "HOST", "port": "PORT", "workers": "WEB_CONCURRENCY", "config": "CHANNELS_CONFIG"}
"""The options of ``serve``, and the environment variable that each one overrides."""


def _instead_of_variables(options: argparse.Namespace) -> Mapping[str, Option]:
    if options.command == "check" and options.file is not None:
        return {"CHANNELS_CONFIG": Option("FILE", options.file)}
    if options.command != "serve":
        return {}
    given = {name: getattr(options, name) for name in _PLACES}
    return {_PLACES[name]: Option(f"--{name}", value) for name, value in given.items() if value is not None}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:  # the command's own parser says so, with its own usage
        options.parser.error(f"unrecognized arguments: {shlex.join(unknown)}{_QUOTES.get(options.command, '')}")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=COMMAND, description="Abide, a realtime channels server.")
    parser.add_argument("--version", action="version", version=f"{COMMAND} {__version__}", help="print the version")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    server = _add(commands, "serve", "check the configuration and serve it under gunicorn")
    server.add_argument("--host", type=_given, help="the address to listen on (default: HOST, else 127.0.0.1)")
    server.add_argument("--port", type=_given, help="the port to listen on (default: PORT, else 8000)")
    server.add_argument(
        "--workers", type=_given, metavar="N", help="the number of workers (default: WEB_CONCURRENCY, else 1)"
    )
    checker = _add(commands, "check", "check a configuration and print what would be served, with secrets masked")
    default = "the YAML file (default: CHANNELS_CONFIG, else config/channels.yaml)"
    server.add_argument("--config", type=_given, metavar="FILE", help=default)
    checker.add_argument("file", type=_given, nargs="?", metavar="FILE", help=default)
    _add(commands, "migrate", "create or upgrade the Postgres schema")
    publisher = _add(commands, "publish", "publish one message on a running server and print its position")
    subscriber = _add(commands, "subscribe", "print a channel's messages as they arrive, one per line, until Ctrl-C")
    for command in (publisher, subscriber):
        command.add_argument("channel", help="the channel's name")
        command.add_argument("--url", default=_own_url(), help="the server (default: %(default)s, from PORT)")
        credential = command.add_mutually_exclusive_group()
        credential.add_argument(
            "--key", help="one of the server's keys (default: ABIDE_TOKEN, which no list of processes shows)"
        )
        credential.add_argument(
            "--token-file", type=_given, metavar="FILE", help="a token or a key, read anew when it ends"
        )
    publisher.add_argument("data", help="the message as JSON; - reads it from stdin")
    subscriber.add_argument("--since", metavar="P", help="start after this position, or at 'earliest'")
    subscriber.add_argument("--last", type=int, metavar="N", help="start with the newest N messages")
    subscriber.add_argument("--json", action="store_true", help="print objects with channel, position, time and data")
    token_command.add_arguments(_add(commands, "token", "mint a token, or explain what one may do on a channel"))
    _add(commands, "schema", "print the JSON Schema of the YAML file, for editors")
    return parser


def _given(text: str) -> str:
    if not text:
        msg = "must not be empty"
        raise argparse.ArgumentTypeError(msg)
    return text


def _own_url() -> str:
    """Return the address of a server on this machine with the same environment."""
    try:
        port = Environment.read().port
    except ConfigError:  # the server reports it
        port = Environment().port
    return f"http://127.0.0.1:{port}"


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, does: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")
    parser.set_defaults(parser=parser)
    return parser


def _summary(settings: Settings) -> Iterable[str]:
    backend = settings.backend
    direct = [("direct", mask(backend.direct_url))] if backend.direct_url else []
    operators = [("operators", settings.operators)] if settings.operators else []
    yield from _table(
        [
            ("backend", mask(backend.url)),
            *direct,
            ("gives", backend.engine.gives),
            ("keys", str(len(settings.auth.keys))),
            ("origins", ", ".join(settings.origins) or "none"),
            *operators,
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
        str(channel.publish),
        str(channel.subscribe),
        str(channel.client_publish).lower(),
        f"{history.size} for {write_duration(history.ttl)}" if history.size else "none",
        write_size(channel.max_message_size),
    )


def _table(rows: Sequence[tuple[str, ...]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

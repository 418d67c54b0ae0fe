"""Watches the file's content while the server runs."""

from __future__ import annotations

from asyncio import sleep, to_thread
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress

from app.config.diagnostics import ConfigError
from app.config.environment import Environment
from app.config.last_good import LAST_GOOD
from app.config.load import digest as digest_of
from app.config.load import parse, read
from app.config.reload.parse_process import parse_in_process
from app.config.schemas.files import SchemaFiles
from app.config.settings import Settings

_LARGE = 16 * 1024
"""Bytes above which a file is parsed in its own process: starting one takes as long as parsing this many bytes."""


async def watch(
    environment: Environment, digest: str, schemas: Iterable[str] = (), *, interval: float = 0.5
) -> AsyncGenerator[Settings | ConfigError, None]:
    """Yield the new settings each time the content of the file changes, or of a schema file that it names.

    ``digest`` is that of the content in use, and ``schemas`` are the paths of its schema files; ``interval`` is in
    seconds. The files are opened by their paths each time, so renames, bind mounts and symlink swaps are noticed. A
    change counts once two reads in a row agree, because editors truncate a file first. A file that is broken or cannot
    be read is yielded as an error, once. Whatever follows an error is yielded, even the content in use.
    """
    folder = environment.channels_config.parent
    reported = previous = digest
    paths = tuple(schemas)
    while True:
        await sleep(interval)
        content = _read(environment)
        files = SchemaFiles(folder)
        if paths:
            await to_thread(files.read_all, paths)
        seen = str(content) if isinstance(content, ConfigError) else digest_of(content, files.contents)
        if seen == previous and seen != reported:
            if isinstance(content, ConfigError):
                outcome: Settings | ConfigError = content
            else:
                # From now on, the schema files are watched that this content names.
                files = SchemaFiles(folder, files.contents)
                outcome = await to_thread(_parse, content, environment, files)
                paths, seen = tuple(files.contents), digest_of(content, files.contents)
            reported = seen
            yield outcome
        previous = seen


def _read(environment: Environment) -> bytes | ConfigError:
    try:
        return read(environment.channels_config)
    except ConfigError as error:
        return error


def _parse(content: bytes, environment: Environment, files: SchemaFiles) -> Settings | ConfigError:
    try:
        settings = _parse_anywhere(content, environment, files)
    except ConfigError as error:
        return error
    LAST_GOOD.keep(content, files.contents)
    return settings


def _parse_anywhere(content: bytes, environment: Environment, files: SchemaFiles) -> Settings:
    if len(content) > _LARGE:
        with suppress(OSError):  # no process can start: parse it here
            return parse_in_process(content, environment, files)
    return parse(content, environment, files)

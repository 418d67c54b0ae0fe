"""Watches the file's content while the server runs."""

from __future__ import annotations

from asyncio import sleep, to_thread
from collections.abc import AsyncGenerator
from contextlib import suppress

from app.config.diagnostics import ConfigError
from app.config.environment import Environment
from app.config.last_good import LAST_GOOD
from app.config.load import digest as digest_of
from app.config.load import parse, read
from app.config.reload.parse_process import parse_in_process
from app.config.settings import Settings

_LARGE = 16 * 1024
"""Bytes above which a file is parsed in its own process: starting one takes as long as parsing this many bytes."""


async def watch(
    environment: Environment, digest: str, *, interval: float = 0.5
) -> AsyncGenerator[Settings | ConfigError, None]:
    """Yield the new settings each time the file's content changes.

    ``digest`` is that of the content in use; ``interval`` is in seconds. The file is opened by its
    path each time, so renames, bind mounts and symlink swaps are noticed. A change counts once two
    reads in a row agree, because editors truncate a file first. A file that is broken or cannot be
    read is yielded as an error, once. Whatever follows an error is yielded, even the content in use.
    """
    reported = previous = digest
    while True:
        await sleep(interval)
        content = _read(environment)
        seen = str(content) if isinstance(content, ConfigError) else digest_of(content)
        if seen == previous and seen != reported:
            reported = seen
            yield content if isinstance(content, ConfigError) else await to_thread(_parse, content, environment)
        previous = seen


def _read(environment: Environment) -> bytes | ConfigError:
    try:
        return read(environment.channels_config)
    except ConfigError as error:
        return error


def _parse(content: bytes, environment: Environment) -> Settings | ConfigError:
    try:
        settings = _parse_anywhere(content, environment)
    except ConfigError as error:
        return error
    LAST_GOOD.keep(content)
    return settings


def _parse_anywhere(content: bytes, environment: Environment) -> Settings:
    if len(content) > _LARGE:
        with suppress(OSError):  # no process can start: parse it here
            return parse_in_process(content, environment)
    return parse(content, environment)

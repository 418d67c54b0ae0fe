"""The environment variables that the server reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.config import ConfigError, Environment


def test_defaults_are_those_of_a_developers_machine() -> None:
    """Environment without any variable is that of a developer's machine."""
    environment = Environment.read({})
    assert environment == Environment()
    assert (environment.host, environment.port, environment.workers) == ("127.0.0.1", 8000, 1)
    assert (environment.log_format, environment.log_level, environment.drain_seconds) == (None, "info", 15)
    assert environment.channels_config == Path("config/channels.yaml")


def test_values_that_are_set_are_taken() -> None:
    """Environment takes what is set."""
    variables = {
        "HOST": "::",
        "PORT": "80",
        "METRICS_PORT": "9091",
        "CHANNELS_CONFIG": "/c.yaml",
        "WEB_CONCURRENCY": "4",
        "DRAIN_SECONDS": "0",
        "MAX_CONNECTION_AGE": "3600",
        "LOG_FORMAT": "JSON",
        "LOG_LEVEL": "Debug",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
        "DIRECT_DATABASE_URL": "postgres://db",
        "ROOT_PATH": "/realtime/",
    }
    assert Environment.read(variables) == Environment(
        "::",
        80,
        9091,
        Path("/c.yaml"),
        4,
        0,
        3600,
        "json",
        "debug",
        "http://collector:4318",
        "postgres://db",
        variables,
        "/realtime",
    )


def test_an_empty_variable_is_an_unset_one() -> None:
    """Environment takes an empty variable for an unset one."""
    names = ["HOST", "PORT", "CHANNELS_CONFIG", "WEB_CONCURRENCY", "DRAIN_SECONDS", "LOG_FORMAT", "LOG_LEVEL"]
    variables = dict.fromkeys(
        [*names, "METRICS_PORT", "MAX_CONNECTION_AGE", "DIRECT_DATABASE_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"], ""
    )
    assert Environment.read(variables) == Environment(variables=variables)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "abc", 'PORT: must be a whole number from 0 to 65535, not "abc"'),
        ("PORT", "65536", "from 0 to 65535"),
        ("PORT", "-1", "from 0 to 65535"),
        ("PORT", "٣", "from 0 to 65535"),
        ("METRICS_PORT", "65536", "METRICS_PORT: must be a whole number from 0 to 65535"),
        ("WEB_CONCURRENCY", "0", "WEB_CONCURRENCY: must be a whole number from 1 to"),
        ("WEB_CONCURRENCY", "two", "WEB_CONCURRENCY: must be a whole number from 1 to"),
        ("DRAIN_SECONDS", "1.5", "DRAIN_SECONDS: must be a whole number from 0 to"),
        ("LOG_FORMAT", "xml", 'LOG_FORMAT: must be json or console, not "xml"'),
        ("LOG_LEVEL", "loud", "LOG_LEVEL: must be debug, info, warning, error or critical"),
    ],
)
def test_a_bad_value_is_named_with_what_is_expected(name: str, value: str, message: str) -> None:
    """Environment names the variable that is wrong and what is expected."""
    with pytest.raises(ConfigError) as caught:
        Environment.read({name: value})
    assert message in str(caught.value)
    assert str(caught.value).startswith(name)


def test_all_bad_values_are_named_at_once() -> None:
    """Environment names every variable that is wrong."""
    with pytest.raises(ConfigError) as caught:
        Environment.read({"PORT": "x", "LOG_LEVEL": "y"})
    assert [problem.key_path for problem in caught.value.diagnostics] == ["PORT", "LOG_LEVEL"]

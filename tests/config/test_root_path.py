"""ROOT_PATH."""

import pytest

from app.config import ConfigError, Environment


@pytest.mark.parametrize(
    ("written", "read"),
    [("", ""), ("/", ""), ("/realtime", "/realtime"), ("/realtime/", "/realtime"), ("/a/b-c_d.e~1/", "/a/b-c_d.e~1")],
)
def test_root_path_has_no_slash_at_its_end(written: str, read: str) -> None:
    """Environment takes a path with a slash at its end or without."""
    assert Environment.read({"ROOT_PATH": written}).root_path == read


@pytest.mark.parametrize("written", ["realtime", "//realtime", "/a//b", "/a b", "/a?b", "/%61", "https://a.example/b"])
def test_what_is_no_path_is_refused(written: str) -> None:
    """Environment refuses a root path that no request's path could begin with."""
    with pytest.raises(ConfigError, match="ROOT_PATH: must be a path such as /realtime"):
        Environment.read({"ROOT_PATH": written})

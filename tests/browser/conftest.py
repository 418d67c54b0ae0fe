"""One browser for the tests of a process, and a tab for each."""

from collections.abc import Iterator

import pytest

from tests.support.chromium import Chromium, Page


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    with Chromium() as chromium:
        yield chromium


@pytest.fixture
def page(chromium: Chromium) -> Iterator[Page]:
    with chromium.page() as page:
        yield page

"""What tests of pages need."""
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from scripts.browser import missing, open_browser

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture(scope="session")
def browser() -> "Iterator[Chrome]":
    """A headless Chromium (selenium driver) that cannot reach the network; use it in slow tests only.

    Without Chromium a test is skipped; with `BM_REQUIRE_ALL=1`, as in CI, it fails.
    """
    problem = missing()
    if problem:
        (pytest.fail if os.environ.get("BM_REQUIRE_ALL") == "1" else pytest.skip)(f"no browser: {problem}")
    with open_browser() as driver:
        yield driver

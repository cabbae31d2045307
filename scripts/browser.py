"""A headless Chromium for pages that must be seen: tests of HTML, pictures for the README.

It never reaches beyond this machine: every name but localhost fails to resolve.
"""
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

OPTIONS = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars",
           "--disable-background-networking", "--disable-component-update", "--no-first-run",
           "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"]


def missing() -> str | None:
    """What is missing for `open_browser`, with the cure; None if nothing is."""
    import importlib.util
    if importlib.util.find_spec("selenium") is None:
        return "selenium is not installed: make install (extra dev)"
    for name in ("chromium", "chromedriver"):
        if shutil.which(name) is None:
            return f"{name} is not on the PATH: make browser"
    return None


@contextmanager
def open_browser(width: int = 1280, height: int = 900) -> "Iterator[Chrome]":
    """A Chromium with a window of so many pixels, closed at the end.

    Raises:
        FileNotFoundError: no Chromium, no driver or no selenium here.
    """
    problem = missing()
    if problem:
        raise FileNotFoundError(problem)
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for option in (*OPTIONS, f"--window-size={width},{height}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    # a driver that is named is not looked for on the internet
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def requests(driver: "Chrome") -> list[str]:
    """URLs asked for since the last call, but for those that hold their own data."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("data:", "blob:"))]


def console_errors(driver: "Chrome") -> list[str]:
    """Errors of the page's console since the last call."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]

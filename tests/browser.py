"""A headless Chromium for tests of the page, and what it saw."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webdriver import WebDriver
from urllib3.exceptions import HTTPError

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
#: Why there is no browser to test with; empty where there is one.
MISSING = "" if CHROMIUM and DRIVER else "needs Debian's chromium and chromium-driver"


@contextmanager
def chromium(width: int, height: int = 800) -> Iterator[WebDriver]:
    """A browser with a fresh profile, whose window is exactly so wide (a phone below 500)."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = _start(options)
        try:
            driver.set_script_timeout(120)  # axe-core looks at every cell of every table
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
            command(driver, "Emulation.setDeviceMetricsOverride", **size)
            yield driver
        finally:
            driver.quit()


def _start(options: webdriver.ChromeOptions) -> WebDriver:
    """A browser on a machine that has just got it may hang at its first start: once more then."""
    try:
        return webdriver.Chrome(options=options, service=Service(DRIVER))
    except (WebDriverException, HTTPError):
        return webdriver.Chrome(options=options, service=Service(DRIVER))


def command(driver: WebDriver, name: str, **arguments: Any) -> Any:
    """A command of the Chrome DevTools protocol."""
    return driver.execute_cdp_cmd(name, arguments)  # type: ignore[attr-defined]


def complaints(driver: WebDriver) -> list[str]:
    """What the console said since the last call."""
    return [entry["message"] for entry in driver.get_log("browser")]  # type: ignore[attr-defined]


def requests(driver: WebDriver) -> list[str]:
    """Addresses that the page asked for since the last call, data addresses left out."""
    found = []
    for entry in driver.get_log("performance"):  # type: ignore[attr-defined]
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.append(str(message["params"]["request"]["url"]))
        if message["method"] == "Network.webSocketCreated":
            found.append(str(message["params"]["url"]))
    return [address for address in found if not address.startswith("data:")]


def accessibility(driver: WebDriver, *rules: str) -> list[str]:
    """What axe-core finds wrong with the page as it is shown now, by these rules or all: rule, then
    the first element and what to do."""
    source = resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    driver.execute_script(source)  # type: ignore[no-untyped-call]
    found = driver.execute_async_script(  # type: ignore[no-untyped-call]
        "const [rules, done] = arguments; const options = rules.length ? { runOnly: rules } : {};"
        "axe.run(document, { ...options, resultTypes: ['violations'] }).then((found) =>"
        "done(found.violations.map(({ id, nodes: [node] }) =>"
        "`${id}: ${node.html} ${node.failureSummary}`)), (error) => done([String(error)]));",
        list(rules),
    )
    return [str(line) for line in found]

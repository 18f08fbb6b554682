"""What tests of pages share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def elements(root: Any, selector: str) -> list[Any]:
    """All below a page or an element that a CSS selector names."""
    found: list[Any] = root.find_elements("css selector", selector)
    return found


@contextmanager
def screen(browser: Any, page: Path, width: int) -> Iterator[None]:
    """A page on a screen of this width, which it does not exceed."""
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    yield
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

"""Chromium without a window, driven by Playwright; Debian's browser, none of Playwright's own."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find_browser() -> str:
    """Path of a Chromium; skips the test where there is none, or no Playwright to drive it."""
    pytest.importorskip("playwright", reason="no Playwright: the page was not opened (pip install playwright)")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium on this machine: the page was not opened (apt-get install chromium)")
    return found


class Browser:
    """One page. What it, or a frame in it, logged as an error is in `errors`, and in `abroad` what it asked of others
    than this machine."""

    def __init__(self) -> None:
        from playwright.sync_api import sync_playwright

        path = find_browser()
        self._playwright = sync_playwright().start()
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        self._browser = self._playwright.chromium.launch(executable_path=path, args=options)
        self.page = self._browser.new_page()
        self.page.set_default_timeout(30_000)
        self.errors: list[str] = []
        self.abroad: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._logged)
        self.page.on("request", lambda request: self._asked(request.url))

    def _logged(self, told: Any) -> None:
        if told.type == "error":
            self.errors.append(f"{told.text} ({told.location.get('url', '')})")

    def _asked(self, url: str) -> None:
        if not url.startswith(("data:", "blob:", "file:", "about:", "http://127.0.0.1", "http://localhost")):
            self.abroad.append(url)

    @contextmanager
    def fresh(self, width: int, height: int) -> Iterator[None]:
        """A test of a light page in a window of that size, which must log no error."""
        self.size(width, height)
        self.dark(False)
        self.errors.clear()
        yield
        assert self.errors == []

    def close(self) -> None:
        self._browser.close()
        self._playwright.stop()

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        return self.page.evaluate(script)

    def size(self, width: int, height: int) -> None:
        """Of the window, in CSS pixels."""
        self.page.set_viewport_size({"width": width, "height": height})

    def dark(self, on: bool) -> None:
        self.page.emulate_media(color_scheme="dark" if on else "light")

    def open(self, url: str, ready: str) -> float:
        """Opens a page and waits until an expression is true. Seconds that it took."""
        self.page.goto("about:blank")
        start = time.monotonic()
        self.page.goto(url)
        self.page.wait_for_function(f"() => document.readyState === 'complete' && Boolean({ready})", polling=10)
        return time.monotonic() - start

    def move(self, x: float, y: float) -> None:
        self.page.mouse.move(x, y)

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(x, y)

    def press(self, key: str) -> None:
        """A key by its name in JavaScript: "ArrowRight", "Enter", "Tab"."""
        self.page.keyboard.press(key)

    def middle(self, selector: str) -> tuple[float, float]:
        """Middle of an element, scrolled into view."""
        return tuple(
            self.run(
                f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: "
                "'center'}); const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
            )
        )

    def overflow(self) -> int:
        """CSS pixels by which the page is wider than the window."""
        wide, window = self.run("[document.documentElement.scrollWidth, innerWidth]")
        return max(0, wide - window)

    def shot(self, path: Path) -> Path:
        self.page.screenshot(path=str(path))
        return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    opened = Browser()
    yield opened
    opened.close()

"""The viewer's page in a browser, as its tests open it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cambrian_gaze.viz.trace import Trace
from cambrian_gaze.viz.viewer import write_viewer
from tests.viz._browser import Browser

READY = "document.getElementById('page')?.getAttribute('aria-busy') === 'false'"


@pytest.fixture(autouse=True)
def fresh(browser: Browser) -> Iterator[None]:
    with browser.fresh(1200, 900):
        yield


def show(browser: Browser, trace: Trace, folder: Path, fragment: str = "") -> float:
    path = write_viewer(folder / "page.html", trace)
    return browser.open(f"{path.as_uri()}{fragment}", READY)


def give(browser: Browser, control: str, value: object, event: str) -> None:
    """Sets a control to a value as a person would."""
    script = f"const c = document.getElementById('{control}'); c.value = {json.dumps(value)};"
    browser.run(f"(() => {{ {script} c.dispatchEvent(new Event('{event}')); }})()")

"""The pictures of the documentation that show the viewer, its panes and the demo, drawn anew: `scripts/pictures.sh`.

What a caption says is looked up in the page before it is pictured; where it does not hold, nothing is written.
"""

from __future__ import annotations

import json
import sys
import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from cambrian_gaze.files import write_bytes
from cambrian_gaze.quickstart.task import ADDRESSES
from cambrian_gaze.viz.trace import Trace
from cambrian_gaze.viz.viewer import write_viewer
from tests.demo._page import Visitor, serving
from tests.demo._quickstart import MISSING, ROOT, RUN, has_learned, quickstart_talker, read, read_row
from tests.viz._browser import Browser

IMAGES = ROOT / "docs" / "images"
READY = "document.querySelector('main').ariaBusy === 'false'"
VALUE = "#w4"
"""The second digit that the answer reads: "Read", cell, digit, cell, digit."""


def draw(folder: Path) -> list[Path]:
    """The pictures, into `folder`. Raises ValueError where a caption would be wrong."""
    browser = Browser()
    try:
        pictures = [of_viewer(browser, folder), of_panes(browser, folder), *of_demo(browser, folder)]
        if browser.errors or browser.abroad:
            raise ValueError(f"the pages logged {browser.errors} and asked for {browser.abroad}")
    finally:
        browser.close()
    return pictures


def of_viewer(browser: Browser, folder: Path) -> Path:
    """One token under the layer of the head that finds the asked cell most often."""
    best = json.loads((RUN / "results.json").read_text())["arms"]["gaze_k2"]["routing_recall"]["best"]
    with tempfile.TemporaryDirectory() as place:
        page = write_viewer(Path(place) / "gaze.html", Trace.load(RUN / "traces" / "gaze_k2.safetensors"))
        browser.size(1180, 830)
        browser.open(page.as_uri(), READY)
        browser.page.locator("#layer").select_option(str(best["layer"]))
        browser.page.locator(VALUE).click()
        return browser.shot(folder / "viewer.png")


def of_panes(browser: Browser, folder: Path) -> Path:
    """The page that the quickstart leaves."""
    browser.size(1192, 920)
    browser.open((RUN / "viewer.html").as_uri(), READY)
    panes = [browser.page.frame_locator(f"iframe >> nth={n}") for n in range(3)]
    panes[1].locator(VALUE).click()
    for pane in panes:
        pane.locator(f"{VALUE}[aria-selected=true]").wait_for()
    return browser.shot(folder / "viewer_panes.png")


def of_demo(browser: Browser, folder: Path) -> list[Path]:
    """Two regions are hidden, and the digits in them, no others, are read wrongly; and a phone before a question."""
    row = read_row()
    with serving(quickstart_talker()) as address:
        browser.size(1280, 930)
        visitor = Visitor(browser, address)
        visitor.drop(row["picture"])
        visitor.waits(lambda: visitor.ask(row["prompt"]))
        hide_what_is_missed(visitor, row)
        visitor.viewer.locator("#w2").click()
        return [browser.shot(folder / "demo.png"), of_phone(browser, address, row, folder)]


def of_phone(browser: Browser, address: str, row: dict[str, Any], folder: Path) -> Path:
    """A page was added, and its question is written."""
    browser.size(360, 900)
    visitor = Visitor(browser, address)
    visitor.drop(row["picture"])
    visitor.ask("")
    visitor.viewer.locator("[data-region='15']").wait_for(state="attached")
    browser.page.fill("#box textarea", row["prompt"])
    browser.run("document.activeElement.blur()")
    return browser.shot(folder / "demo_phone.png")


def hide_what_is_missed(visitor: Visitor, row: dict[str, Any], most: int = 8) -> None:
    """Hide two regions whose digits are then read wrongly; a guess can be right, and others are tried, up to `most`."""
    for pair in list(combinations((9, 15, 6, 0, 12, 5), 2))[:most]:
        visitor.steer("hidden", list(pair))
        visitor.waits(visitor.viewer.locator("#again").click)
        found = read(visitor.words())
        wrong = {cell for cell, digit in row["truth"].items() if found.get(cell) != digit}
        if wrong == {ADDRESSES[region] for region in pair}:
            return
        visitor.viewer.locator("#clear").click()
    raise ValueError(f"none of {most} pairs of hidden digits, and no other digit, was read wrongly")


def main() -> int:
    """Draws them all, or none."""
    if not has_learned():
        print(f"pictures: {MISSING}; a smoke run's model cannot read", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as place:
        try:
            drawn = draw(Path(place))
        except (ValueError, pytest.skip.Exception) as error:
            print(f"pictures: {error}", file=sys.stderr)
            return 1
        for path in drawn:
            print(write_bytes(IMAGES / path.name, path.read_bytes()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

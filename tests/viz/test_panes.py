"""Several traces in one page: each whole, all together, nothing from anywhere else."""

import base64
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from cambrian_gaze.viz.panes import MOST, pane_names, panes_page, write_panes
from cambrian_gaze.viz.trace import Trace
from tests.viz._browser import Browser
from tests.viz._traces import make_trace, noise

READY = "document.getElementById('panes')?.getAttribute('aria-busy') === 'false'"


def three() -> list[tuple[str, Trace]]:
    gaze, short, evicted = make_trace(), make_trace(tokens=["A", " page"], seed=1), make_trace(seed=2)
    evicted.kept = np.zeros((2, evicted.num_visual), dtype=np.float32)
    evicted.kept[:, 7] = 1.0
    evicted.steering = {"hidden": [8], "forced": []}
    return [("gaze <b>", gaze), ("short", short), ("evicted", evicted)]


def test_what_is_chosen_in_one_pane_is_shown_in_all(browser: Browser, tmp_path: Path) -> None:
    browser.size(1300, 900)
    browser.errors.clear()
    browser.open(write_panes(tmp_path / "page.html", three()).as_uri(), READY)
    frames = [browser.page.frame_locator(f"iframe >> nth={n}") for n in range(3)]
    assert browser.page.locator("h2").all_inner_texts() == ["gaze <b>", "short", "evicted"]
    frames[0].locator("#w4").click()
    frames[2].locator("#w4[aria-selected=true]").wait_for()
    frames[1].locator("#w1[aria-selected=true]").wait_for()  # it has no more
    frames[2].locator("#layer").select_option("1")
    for frame in frames:
        frame.locator("#meaning", has_text="Layer 1").or_(frame.locator("#meaning", has_text="Eviction")).wait_for()
    assert frames[0].locator("#layer").input_value() == "1"
    dark = frames[2].locator(".evicted").evaluate_all("(all) => all.map((one) => one.getAttribute('fill-opacity'))")
    assert [place for place, value in enumerate(dark) if value == "0.000"] == [7]
    assert frames[2].locator(".gone").count() == 1 and frames[0].locator(".gone, .evicted").count() == 0

    browser.page.uncheck("#linked")
    frames[0].locator("#w0").click()
    frames[2].locator("#w4[aria-selected=true]").wait_for()
    assert browser.errors == [] and browser.abroad == []


@pytest.mark.parametrize(("width", "dark"), [(360, False), (360, True), (1600, True)])
def test_nothing_overflows(browser: Browser, tmp_path: Path, width: int, dark: bool) -> None:
    browser.size(width, 800)
    browser.dark(dark)
    browser.errors.clear()
    traces = [(name * 40, trace) for name, trace in three()]
    traces[0][1].prompt = "Supercalifragilistic" * 20
    browser.open(write_panes(tmp_path / "page.html", traces).as_uri(), READY)
    assert browser.overflow() == 0 and browser.errors == []
    inner = browser.page.frame_locator("iframe >> nth=0").locator("html")
    assert inner.evaluate("(page) => page.scrollWidth <= window.innerWidth")


def test_the_page_is_whole_and_runs_its_own_scripts_alone() -> None:
    page = panes_page(three())
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page).group(1)
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"'sha256-{digest}'" in policy
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)


def test_three_large_traces_share_the_weight_of_one() -> None:
    traces = [(str(n), make_trace([[noise(1600, 1200, n)]], grid=(24, 24), region=(6, 6))) for n in range(3)]
    assert len(panes_page(traces)) < 5_000_000


def test_how_many_and_their_names() -> None:
    for count in (1, MOST + 1):
        with pytest.raises(ValueError, match=f"{count} traces; a page has 2 to"):
            panes_page([("a", make_trace())] * count)
    assert pane_names(["/x/a.safetensors", "/y/a.safetensors", "b.safetensors"]) == ["x/a", "y/a", "b"]

"""The viewer's heat in Chromium: the switch, what is shown at first, the address, the legend. Skipped without one."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.viz._browser import Browser
from tests.viz._traces import make_trace, with_weights
from tests.viz._viewer_page import READY, fresh, give, show  # noqa: F401
from tests.viz.test_heat import dense_trace, hot_corner, large

HOT = (
    "[...document.querySelectorAll('.hot')].map((cell) => [cell.getAttribute('x'), cell.getAttribute('fill-opacity')])"
)


def text(browser: Browser, name: str) -> str:
    return browser.run(f"document.getElementById('{name}').textContent").replace("\u00a0", " ")


def seen(browser: Browser, name: str) -> bool:
    return browser.page.locator(f"#{name}").is_visible()


def test_the_switch_shows_heat_and_the_address_keeps_it(browser: Browser, tmp_path: Path) -> None:
    trace = with_weights(make_trace(layers=3))
    show(browser, trace, tmp_path)
    assert seen(browser, "shows") and not seen(browser, "scale") and browser.run(HOT) == []
    browser.page.focus('input[name="show"]:checked')
    browser.press("ArrowRight")
    assert browser.run("location.hash") == "#t=0&u=0&s=heat" and seen(browser, "scale")
    cells = browser.run(HOT)
    assert cells and max(float(opacity) for _, opacity in cells) == 0.9
    told, heat = text(browser, "told"), trace.heat(0)
    assert f"{100 * float(trace.role_mass[0, :, 0].mean()):.0f} % of the attention lay on the picture" in told
    hottest = int(np.argmax(heat))
    assert f"row {hottest // 6 + 1}, column {hottest % 6 + 1}" in told
    assert "mean over the 3 heads of all 3 layers" in text(browser, "meaning")
    ends = browser.run("[...document.querySelectorAll('#scale span')].map((s) => parseFloat(s.textContent))")
    assert ends == pytest.approx([0, 25 * heat.max(), 100 * heat.max()], rel=0.06)
    assert "attention a head gave inside the regions" in text(browser, "legend")
    give(browser, "layer", "1", "change")
    assert "heads of layer 1" in text(browser, "meaning") and browser.run("location.hash") == "#t=0&l=1&u=0&s=heat"
    assert browser.run("document.getElementById('head').disabled")
    browser.press("ArrowLeft")
    assert browser.run(HOT) == [] and browser.run("location.hash") == "#t=0&l=1&u=0"
    show(browser, trace, tmp_path, "#t=2&s=heat")
    assert browser.run("viewer.state.show") == "heat" and browser.run(HOT)


def test_a_dense_trace_shows_heat_at_first(browser: Browser, tmp_path: Path) -> None:
    show(browser, with_weights(dense_trace()), tmp_path)
    assert len(browser.run(HOT)) > 20 and not seen(browser, "failed")
    browser.page.check('input[name="show"][value="regions"]')
    assert seen(browser, "failed") and "no regions were chosen" in text(browser, "failed")
    assert browser.run("location.hash") == "#t=0&u=0&s=regions"
    show(browser, dense_trace(), tmp_path, "#s=heat")
    assert seen(browser, "failed") and not seen(browser, "shows") and browser.run("viewer.state.show") == "regions"


def test_heat_lies_on_its_visual_token(browser: Browser, tmp_path: Path) -> None:
    show(browser, hot_corner(), tmp_path, "#s=heat")
    assert browser.run("viewer.state.unit") == 1, "the picture with the most of it"
    assert [(x, round(float(opacity), 2)) for x, opacity in browser.run(HOT)] == [("40", 0.9), ("0", 0.45)]
    bars = browser.run("[...document.querySelectorAll('#strip i')].map((bar) => bar.style.width)")
    assert bars == ["0%", "100%"]
    assert "50 % (image 2, row 2, column 5)" in text(browser, "told")


def test_words_are_marked_by_the_weight_inside_a_region(browser: Browser, tmp_path: Path) -> None:
    trace = with_weights(make_trace())
    show(browser, trace, tmp_path, "#s=heat&r=4")
    found = browser.run(
        "[...document.querySelectorAll('#words span')].map((w) => Number(w.style.getPropertyValue('--w')))"
    )
    inside = np.array([trace.heat(t).reshape(6, 6)[2:4, 2:4].sum() for t in range(6)])
    assert found == pytest.approx((inside / inside.max()).tolist(), abs=0.02)
    assert "Inside region 4 (row 2, column 2): " in text(browser, "told")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_overflows(browser: Browser, tmp_path: Path, width: int, dark: bool) -> None:
    browser.size(width, 740)
    browser.dark(dark)
    show(browser, large(36), tmp_path, "#s=heat&t=4")
    wide = browser.run("[document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1] and len(browser.run(HOT)) > 500


def test_a_large_trace_opens_within_two_seconds(browser: Browser, tmp_path: Path) -> None:
    assert show(browser, large(36), tmp_path, "#s=heat") < 2.0
    took = browser.run("(() => { const s = performance.now(); viewer.choose(7); return performance.now() - s; })()")
    assert took < 500


def test_a_page_around_is_told_and_tells(browser: Browser, tmp_path: Path) -> None:
    from cambrian_gaze.viz.panes import write_panes

    named = [("dense", with_weights(dense_trace())), ("gaze", with_weights(make_trace())), ("old", make_trace())]
    path = write_panes(tmp_path / "panes.html", named)
    browser.open(path.as_uri(), "document.getElementById('panes').getAttribute('aria-busy') === 'false'")
    frames = browser.page.frames[1:]
    assert [frame.evaluate("viewer.state.show") for frame in frames] == ["heat", "regions", "regions"]
    frames[1].check('input[name="show"][value="heat"]')
    browser.page.wait_for_timeout(300)
    assert [frame.evaluate("viewer.state.show") for frame in frames] == ["heat", "heat", "regions"]
    frames[1].check('input[name="show"][value="regions"]')
    browser.page.wait_for_timeout(300)
    assert [frame.evaluate("viewer.state.show") for frame in frames] == ["regions"] * 3
    assert json.loads(frames[2].evaluate("JSON.stringify(viewer.state)"))["t"] == 0

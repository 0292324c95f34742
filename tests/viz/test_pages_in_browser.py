"""Pages as Chromium lays them out: nothing leaves the window at 360 px, nothing that a chart says leaves the chart."""

from pathlib import Path

from PIL import Image

from cambrian_gaze.data.inspect.preview import Picture, Preview, Token
from cambrian_gaze.files import write_text
from cambrian_gaze.viz.preview import preview_page
from cambrian_gaze.viz.report import write_report
from tests.viz._browser import Browser
from tests.viz.test_report import full_report

WIDTHS = (360, 1200)
BEYOND = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
OUTSIDE = """[...document.querySelectorAll("svg")].flatMap(svg => {
  const whole = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter(text => {
    const box = text.getBoundingClientRect();
    return box.left < whole.left || box.right > whole.right || box.top < whole.top || box.bottom > whole.bottom;
  }).map(text => text.textContent);
})"""
INK = """[...document.querySelectorAll("svg text")].map(text => getComputedStyle(text).fill)"""


def test_reports_fit_and_charts_hold_what_they_say(browser: Browser, tmp_path: Path) -> None:
    path = write_report(tmp_path / "report.html", full_report())
    colours = []
    for width in WIDTHS:
        for dark in (False, True):
            browser.size(width, 900)
            browser.dark(dark)
            browser.open(path.as_uri(), "document.querySelector('svg')")
            browser.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
            assert browser.run(BEYOND) <= 0 and browser.run(OUTSIDE) == []
            colours.append(browser.run(INK))
    assert (
        colours[0] == colours[2]
        and colours[1] == colours[3]
        and set(colours[0]) & set(colours[1]) <= {"rgb(255, 255, 255)"}
    )
    assert browser.errors == []


def test_previews_fit(browser: Browser, tmp_path: Path) -> None:
    pieces = [Token("word" * 40, 1, "user", False, n) for n in range(9)]
    pictures = [Picture("image 1", Image.new("RGB", (64, 64)))]
    shown = Preview("s", "folder/" * 30 + "rows.jsonl", 1, "id" * 60, "", pieces, (4, 4), pictures)
    shown.num_tokens = 9
    facts = {"a_rather_long_name_of_a_setting": "value" * 60}
    path = write_text(tmp_path / "preview.html", preview_page("recipe" * 20, [shown], {"image": (2, 2)}, facts))
    for width in WIDTHS:
        browser.size(width, 900)
        browser.open(path.as_uri(), "document.querySelector('img')")
        assert browser.run(BEYOND) <= 0

"""The demo with the quickstart's model, where one was trained here: it reads the page, and what is hidden it cannot."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cambrian_gaze.demo.limits import Limits
from cambrian_gaze.demo.talk import Talker
from tests.demo._page import Visitor, serving
from tests.viz._browser import Browser

RUN = Path(__file__).parents[2] / "runs" / "quickstart"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (RUN / "gaze" / "config.json").is_file(), reason="no runs/quickstart here (./scripts/quickstart.sh)"
    ),
]
pytest.importorskip("gradio", reason="no Gradio: the demo was not opened (pip install 'cambrian-gaze[demo]')")


@pytest.fixture(scope="module")
def visitor() -> Iterator[Visitor]:
    from cambrian_gaze.cli.loading import load

    model, processor = load(str(RUN / "gaze"), "cpu")
    browser = Browser()
    browser.size(1200, 1000)
    try:
        with serving(Talker(model, processor, "runs/quickstart/gaze", Limits())) as address:
            yield Visitor(browser, address)
        assert browser.errors == [] and browser.abroad == []
    finally:
        browser.close()


def read(words: str) -> dict[str, str]:
    """ "Read C4 3 B1 5 …" as cell → digit."""
    parts = words.split("<")[0].split()[1:]
    return dict(zip(parts[::2], parts[1::2], strict=False))


def test_a_hidden_digit_is_the_one_that_is_lost(visitor: Visitor) -> None:
    rows = [json.loads(line) for line in (RUN / "data" / "heldout.jsonl").read_text().splitlines()[:40]]
    row = next(row for row in rows if row["family"] == "read")
    truth = {cell: str(digit) for cell, digit in row["target"]}
    visitor.drop(RUN / "data" / "images" / row["image"])
    visitor.waits(lambda: visitor.ask(row["conversations"][0]["value"].removeprefix("<image>\n")))
    seen = read(visitor.words())
    assert sum(seen[cell] == digit for cell, digit in truth.items()) >= 15

    # Rows are letters or numbers of the cells' names; region r is row r // 4, column r % 4 of the page.
    visitor.viewer.locator("input[value=forced]").check()
    for region in range(8):  # the upper half
        visitor.viewer.locator(f"[data-region='{region}']").click()
    visitor.waits(visitor.viewer.locator("#again").click)
    half = read(visitor.words())
    wrong = {cell for cell, digit in truth.items() if half.get(cell) != digit}
    lost = {cell[0] for cell in wrong}, {cell[1] for cell in wrong}
    assert len(wrong) >= 4 and (lost[0] <= {"C", "D"} or lost[1] <= {"3", "4"})
    visitor.viewer.locator("#clear").click()

    visitor.waits(lambda: visitor.ask("How many of each?"))
    assert visitor.viewer.locator("#prompt").inner_text() == "How many of each?"

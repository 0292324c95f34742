"""The demo with the quickstart's model, where one was trained here: two turns about a page and a video, K, hidden and
forced regions, the trace as it is downloaded; after a full run it reads the page, and what is hidden it cannot."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cambrian_gaze.viz.trace import Trace
from tests.demo._page import Visitor, serving
from tests.demo._quickstart import MISSING, MODEL, RUN, has_learned, quickstart_talker, read, read_row
from tests.viz._browser import Browser

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (MODEL / "config.json").is_file(), reason=MISSING)]
pytest.importorskip("gradio", reason="no Gradio: the demo was not opened (pip install 'cambrian-gaze[demo]')")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browser = Browser()
    browser.size(1200, 1000)
    browser.page.set_default_timeout(120_000)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(quickstart_talker()) as address:
        yield address


@pytest.fixture
def visitor(browser: Browser, address: str) -> Iterator[Visitor]:
    yield Visitor(browser, address)
    assert browser.errors == [] and browser.abroad == []


@pytest.fixture(scope="module")
def pages_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four held-out pages, one after the other."""
    av = pytest.importorskip("av")
    path = tmp_path_factory.mktemp("demo") / "pages.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=1)
        stream.width = stream.height = 128
        for page in sorted((RUN / "data" / "images" / "heldout").iterdir())[:4]:
            with Image.open(page) as picture:
                frame = av.VideoFrame.from_image(picture.convert("RGB").resize((128, 128)))
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def seen(trace: Trace) -> set[int]:
    """Every region that some head chose."""
    return set(np.unique(trace.regions[trace.regions >= 0]).tolist())


def test_two_turns_about_a_page_and_a_video(visitor: Visitor, pages_video: Path, tmp_path: Path) -> None:
    row = read_row()

    def downloaded() -> Trace:
        trace = Trace.load(visitor.download("#trace", tmp_path))
        assert trace.answer.split("<")[0].strip() in visitor.said()
        return trace

    visitor.drop(row["picture"])
    status = visitor.waits(lambda: visitor.ask(row["prompt"]))
    free = downloaded()
    assert "8 visual, 4 context, " in status and free.prompt == row["prompt"] and len(seen(free)) > 2

    visitor.steer("hidden", [5, 10])
    visitor.waits(visitor.viewer.locator("#again").click)
    trace = downloaded()
    assert trace.steering["hidden"] == [5, 10] and not seen(trace) & {5, 10}
    visitor.viewer.locator("#clear").click()

    visitor.steer("forced", [0, 1, 4])
    visitor.waits(visitor.viewer.locator("#again").click)
    trace = downloaded()
    assert trace.steering["forced"] == [0, 1, 4] and seen(trace) <= {0, 1, 4}
    visitor.viewer.locator("#clear").click()

    visitor.dial(7)
    trace = downloaded()
    assert trace.regions.shape[-1] == 7 and not any(trace.steering.values())
    assert (trace.attended[..., 0] == 28).all() and "28 visual" in visitor.page.inner_text("#status")

    visitor.drop(pages_video)
    visitor.waits(lambda: visitor.ask("How many of each?"))
    trace = downloaded()
    assert trace.prompt == "How many of each?" and [item.kind for item in trace.items] == ["image", "video"]
    assert visitor.viewer.locator("#prompt").inner_text() == "How many of each?"
    page = visitor.download("#page_file", tmp_path)
    assert trace.answer.split("<")[0].strip() in page.read_text()


@pytest.mark.skipif(not has_learned(), reason="a smoke run's model cannot read")
def test_a_hidden_digit_is_the_one_that_is_lost(visitor: Visitor) -> None:
    row = read_row()
    truth = row["truth"]
    visitor.drop(row["picture"])
    visitor.waits(lambda: visitor.ask(row["prompt"]))
    found = read(visitor.words())
    assert sum(found[cell] == digit for cell, digit in truth.items()) >= 15

    # Rows are letters or numbers of the cells' names; region r is row r // 4, column r % 4 of the page.
    visitor.steer("forced", list(range(8)))  # the upper half
    visitor.waits(visitor.viewer.locator("#again").click)
    half = read(visitor.words())
    wrong = {cell for cell, digit in truth.items() if half.get(cell) != digit}
    lost = {cell[0] for cell in wrong}, {cell[1] for cell in wrong}
    assert len(wrong) >= 4 and (lost[0] <= {"C", "D"} or lost[1] <= {"3", "4"})
    visitor.viewer.locator("#clear").click()

    visitor.waits(lambda: visitor.ask("How many of each?"))
    assert visitor.viewer.locator("#prompt").inner_text() == "How many of each?"

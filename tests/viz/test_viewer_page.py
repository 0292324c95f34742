"""The viewer in Chromium: pointer, keyboard, address, sizes. Skipped where there is no Chromium."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cambrian_gaze.viz.trace import ALL, NONE
from tests.viz._browser import Browser
from tests.viz._traces import make_trace, noise
from tests.viz._viewer_page import READY, fresh, give, show  # noqa: F401


def lit(browser: Browser) -> list[int]:
    """Regions that lie in full light."""
    found = browser.run(
        "[...document.querySelectorAll('.veil')].filter((v) => v.getAttribute('fill-opacity') === '0.000')"
        ".map((v) => Number(v.dataset.region))"
    )
    return sorted(found)


def test_words_light_up_regions_and_regions_words(browser: Browser, tmp_path: Path) -> None:
    chosen = np.broadcast_to(np.arange(6)[:, None, None, None], (6, 2, 3, 1))  # token t looks at region t
    trace = make_trace(chosen=chosen)
    show(browser, trace, tmp_path)
    assert lit(browser) == [0]
    browser.move(*browser.middle("#w3"))
    assert lit(browser) == [3]
    browser.move(5, 5)
    assert lit(browser) == [0]
    browser.click(*browser.middle("#w4"))
    assert lit(browser) == [4] and browser.run("location.hash") == "#t=4&u=0"
    for key, token in (("ArrowRight", 5), ("ArrowRight", 5), ("ArrowLeft", 4), ("Home", 0), ("End", 5)):
        browser.press(key)
        assert lit(browser) == [token] and browser.run("document.activeElement.id") == f"w{token}"
    assert browser.run("document.querySelectorAll('#words [tabindex=\"0\"]').length") == 1
    assert "Token 6 of 6" in browser.run("document.getElementById('live').textContent")

    browser.move(*browser.middle("[data-region='2']"))
    strengths = "[...document.querySelectorAll('#words span')].map((w) => Number(w.style.getPropertyValue('--w')))"
    assert browser.run(strengths) == [0, 0, 1, 0, 0, 0]
    browser.click(*browser.middle("[data-region='1']"))
    browser.move(5, 5)
    assert browser.run(strengths) == [0, 1, 0, 0, 0, 0] and browser.run("location.hash") == "#t=5&u=0&r=1"


def test_whole_words(browser: Browser, tmp_path: Path) -> None:
    tokens = ["Un", "believ", "able", " pages", ".", "<end>"]
    chosen = np.broadcast_to(np.arange(6)[:, None, None, None], (6, 2, 3, 1))  # token t looks at region t
    show(browser, make_trace(chosen=chosen, tokens=tokens), tmp_path)
    assert lit(browser) == [0]
    browser.page.check("#whole")
    assert lit(browser) == [0, 1, 2]
    assert "Tokens 1 to 3 of 6, “Unbelievable”" in browser.run("document.getElementById('told').textContent")
    assert browser.run("[...document.querySelectorAll('.together')].map((w) => w.textContent)") == tokens[:3]
    browser.page.focus("#w0")
    for key, words in (("ArrowRight", [3, 4]), ("ArrowRight", [5]), ("ArrowLeft", [3, 4]), ("Home", [0, 1, 2])):
        browser.press(key)
        assert lit(browser) == words
    browser.page.uncheck("#whole")
    assert lit(browser) == [0]
    show(browser, make_trace(tokens=["A", " b", "<end>"]), tmp_path)
    assert browser.page.locator("#wholly").is_hidden()


def test_overlays_lie_on_the_pixels_of_their_regions(browser: Browser, tmp_path: Path) -> None:
    for size, aspect in [((300, 120), "pad"), ((120, 300), "pad"), ((300, 120), "square"), ((120, 300), "square")]:
        trace = make_trace([[noise(*size)]], aspect=aspect)
        show(browser, trace, tmp_path)
        stage = browser.run(
            "(() => { const b = document.querySelector('#stage img').getBoundingClientRect();"
            "return [b.x, b.y, b.width, b.height]; })()"
        )
        assert stage[2] / stage[3] == pytest.approx(size[0] / size[1], rel=0.01)
        boxes = browser.run(
            "[...document.querySelectorAll('.veil')].map((v) => { const b = v.getBoundingClientRect();"
            "return [Number(v.dataset.region), b.left, b.top, b.right, b.bottom]; })"
        )
        assert {r for r, *_ in boxes} == {r for r, place in enumerate(trace.pixels) if place[2] > place[0]}
        for r, *edges in boxes:
            for edge, pixel, start, length, whole in zip(
                edges, trace.pixels[r], stage[:2] * 2, stage[2:] * 2, size * 2, strict=True
            ):
                assert edge == pytest.approx(start + pixel * length / whole, abs=1.0)


def test_heads_are_picked_from_map_and_lists(browser: Browser, tmp_path: Path) -> None:
    trace = make_trace(layers=4, heads=5)
    show(browser, trace, tmp_path)
    assert "All heads" in browser.run("document.getElementById('meaning').textContent")
    browser.middle("#map")
    box = browser.run("Object.values(document.getElementById('map').getBoundingClientRect().toJSON()).slice(0, 2)")
    cell = browser.run("viewer.cell()")
    browser.click(box[0] + 26 + 3.5 * cell, box[1] + 2.5 * cell)
    assert browser.run("location.hash") == "#t=0&l=2&h=3&u=0"
    assert lit(browser) == sorted(trace.regions[0, 2, 3].tolist())
    assert "head 3 of layer 2" in browser.run("document.getElementById('meaning').textContent")
    browser.run("document.getElementById('map').focus()")
    browser.press("ArrowRight")
    browser.press("ArrowUp")
    assert lit(browser) == sorted(trace.regions[0, 1, 4].tolist())
    assert browser.run("[document.getElementById('layer').value, document.getElementById('head').value]") == ["1", "4"]
    give(browser, "layer", "best", "change")
    layer, head = browser.run("viewer.trace.best(0)")
    assert lit(browser) == sorted(trace.regions[0, layer, head].tolist())
    meaning = browser.run("document.getElementById('meaning').textContent")
    assert f"layer {layer}, head {head}" in meaning and "the model does not" in meaning


def test_the_address_holds_the_state(browser: Browser, tmp_path: Path) -> None:
    trace = make_trace([[noise(60, 40, seed) for seed in range(4)]])
    show(browser, trace, tmp_path, "#t=2&l=1&h=2&u=3&r=30")
    state = browser.run("JSON.stringify(viewer.state)")
    assert json.loads(state) == {"t": 2, "layer": 1, "head": 2, "unit": 3, "region": 30, "show": "regions"}
    show(browser, trace, tmp_path, "#t=99&l=-1&h=x&u=4&r=<b>")
    assert json.loads(browser.run("JSON.stringify(viewer.state)"))["t"] == 0


def test_video_has_a_strip_and_a_scrubber(browser: Browser, tmp_path: Path) -> None:
    chosen = np.broadcast_to(np.array([0, 10, 20, 28, 30, 35])[:, None, None, None], (6, 2, 3, 1))
    trace = make_trace([[noise(60, 40, seed) for seed in range(4)]], chosen=chosen)  # 9 regions in a frame
    show(browser, trace, tmp_path)
    unit = "document.getElementById('unit').textContent"
    assert browser.run(unit) == "video, frame 1 of 4"
    browser.click(*browser.middle("#w3"))
    assert browser.run(unit) == "video, frame 4 of 4" and lit(browser) == [28]
    browser.click(*browser.middle("#strip button:nth-child(2)"))
    assert browser.run(unit) == "video, frame 2 of 4" and lit(browser) == []
    browser.press("ArrowLeft")
    assert browser.run(unit) == "video, frame 1 of 4" and browser.run("document.activeElement.innerText.trim()") == "1"
    give(browser, "scrub", 2, "input")
    assert browser.run(unit) == "video, frame 3 of 4"
    bars = "[...document.querySelectorAll('#strip i')].map((bar) => bar.style.width)"
    assert browser.run(bars) == ["0%", "0%", "0%", "100%"]


def test_the_scanpath_plays(browser: Browser, tmp_path: Path) -> None:
    show(browser, make_trace(), tmp_path)
    browser.click(*browser.middle("#play"))
    played = browser.run("new Promise((done) => setTimeout(() => done(viewer.state.t), 1200))")
    assert played >= 1 and browser.run("document.querySelectorAll('.dot').length") >= 2
    browser.click(*browser.middle("#play"))
    assert browser.run("document.getElementById('play').textContent") == "Play"


def test_the_picture_is_walked_with_the_keyboard(browser: Browser, tmp_path: Path) -> None:
    show(browser, make_trace(), tmp_path)
    browser.run("document.getElementById('stage').focus()")
    for key, region in (("ArrowRight", 0), ("ArrowRight", 1), ("ArrowDown", 4), ("ArrowLeft", 3), ("ArrowLeft", 3)):
        browser.press(key)
        assert browser.run("viewer.region") == region
    assert "region 3 (row 2, column 1)" in browser.run("document.getElementById('live').textContent")
    browser.press("Enter")
    assert browser.run("viewer.state.region") == 3
    browser.press("Escape")
    assert browser.run("viewer.region") is None


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [(360, 740), (800, 600), (1600, 1000)])
def test_nothing_overflows(browser: Browser, tmp_path: Path, size: tuple[int, int], dark: bool) -> None:
    browser.size(*size)
    browser.dark(dark)
    long = "Supercalifragilistic" * 20
    trace = make_trace(
        [[noise(300, 100, seed) for seed in range(9)]],
        layers=36,
        heads=32,
        prompt=long,
        tokens=[long, *[" words"] * 40],
    )
    show(browser, trace, tmp_path)
    width = browser.run("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]
    ground = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(json.loads(ground.replace("rgb(", "[").replace(")", "]"))) < 200) == dark


def test_texts_of_others_do_nothing(browser: Browser, tmp_path: Path) -> None:
    text = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"
    trace = make_trace(prompt=text, tokens=[text, text])
    trace.top_tokens = [[text] * 5] * 2
    trace.model["name"] = trace.missing["x"] = text
    show(browser, trace, tmp_path, "#t=1")
    assert browser.run("window.broken") is None
    assert browser.run("document.querySelectorAll('main img').length") == 1
    assert browser.run("document.getElementById('w0').textContent") == text


def test_a_dense_trace_says_so(browser: Browser, tmp_path: Path) -> None:
    chosen = np.full((3, 2, 2, 2), NONE)
    chosen[..., 0] = ALL
    trace = make_trace(chosen=chosen, tokens=["a", "b", "c"])
    trace.logprobs = trace.top_ids = trace.top_logprobs = None
    trace.missing["logprobs"] = "not asked for"
    show(browser, trace, tmp_path)
    assert "no regions were chosen" in browser.run("document.getElementById('failed').textContent")
    assert "not asked for" in browser.run("document.getElementById('alternatives').textContent")


def test_a_large_trace_opens_within_two_seconds(browser: Browser, tmp_path: Path) -> None:
    trace = make_trace(
        [[noise(1600, 1200)]], grid=(32, 32), region=(4, 4), tokens=[" word"] * 60, layers=36, heads=32, k=4
    )
    assert show(browser, trace, tmp_path) < 2.0
    start = "const start = performance.now();"
    assert browser.run(f"(() => {{ {start} viewer.choose(30); return performance.now() - start; }})()") < 300


def test_a_frame_in_a_notebook_shows_the_page(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "notebook.html"
    page.write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{make_trace()._repr_html_(600)}")
    browser.open(page.as_uri(), "document.querySelector('iframe').offsetHeight === 600")
    for _ in range(50):  # Its script is out of reach from here; the outline of a region is seen.
        with Image.open(browser.shot(tmp_path / "shot.png")) as shot:
            if (255, 176, 0) in {colour for _, colour in shot.convert("RGB").getcolors(1 << 24)}:
                return
        browser.run("new Promise((done) => setTimeout(done, 100))")
    raise AssertionError("no region was outlined in the frame")

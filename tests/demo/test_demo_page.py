"""The demo in Chromium, with a tiny model: two turns, a picture and a video, K, hidden and forced regions."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cambrian_gaze.demo.talk import Talker
from cambrian_gaze.viz.trace import Trace
from tests.demo._page import Visitor, serving
from tests.viz._browser import Browser

pytest.importorskip("gradio", reason="no Gradio: the demo was not opened (pip install 'cambrian-gaze[demo]')")


@pytest.fixture(scope="module")
def address(talker: Talker, browser: Browser) -> Iterator[str]:
    with serving(talker) as address:
        yield address


@pytest.fixture(autouse=True)
def fresh(browser: Browser) -> Iterator[None]:
    with browser.fresh(1200, 1000):
        yield
    assert browser.abroad == []


def test_two_turns_about_a_picture_and_a_video(
    browser: Browser, address: str, picture: Path, video: Path, tmp_path: Path
) -> None:
    visitor = Visitor(browser, address)
    visitor.drop(picture)
    status = visitor.waits(lambda: visitor.ask("What is it?"))
    assert "visual, " in status and visitor.viewer.locator("#prompt").inner_text() == "What is it?"
    visitor.viewer.locator("#w0").hover()
    assert "Token 1 of" in visitor.viewer.locator("#told").inner_text()
    visitor.viewer.locator("#w0").click()
    browser.press("ArrowRight")
    assert "Token 2 of" in visitor.viewer.locator("#told").inner_text()
    visitor.viewer.locator("#layer").select_option("0")
    visitor.viewer.locator("#head").select_option("1")
    assert "One head of" in visitor.viewer.locator("#meaning").inner_text()

    visitor.drop(video)
    visitor.waits(lambda: visitor.ask("And this?"))
    assert visitor.viewer.locator("#prompt").inner_text() == "And this?"
    assert visitor.viewer.locator("#strip button").count() == 5
    trace = Trace.load(visitor.download("#trace", tmp_path))
    page = visitor.download("#page_file", tmp_path)
    assert trace.prompt == "And this?" and [item.kind for item in trace.items] == ["image", "video"]
    assert page.suffix == ".html"
    browser.open(page.as_uri(), "document.getElementById('page').ariaBusy === 'false'")


def test_k_and_regions_steer_the_answer(browser: Browser, address: str, picture: Path) -> None:
    visitor = Visitor(browser, address)
    visitor.drop(picture)
    visitor.ask("")
    visitor.viewer.locator("[data-region='0']").wait_for(state="attached")
    visitor.viewer.locator("input[value=hidden]").check()
    visitor.viewer.locator("[data-region='5']").click()
    assert visitor.viewer.locator("#steered").inner_text() == "1 region hidden."
    visitor.waits(lambda: visitor.ask("What?"))
    about = visitor.viewer.locator("#about").text_content()
    assert "hidden from the text1 regions: 5" in about
    visitor.viewer.locator("[data-region='5']").click()
    assert "look everywhere" in visitor.viewer.locator("#steered").inner_text()

    visitor.viewer.locator("input[value=forced]").check()
    box = visitor.viewer.locator("#stage").bounding_box()
    browser.move(box["x"] + 4, box["y"] + 4)
    browser.page.mouse.down()
    browser.page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.4, steps=4)
    browser.page.mouse.up()
    assert visitor.viewer.locator("#steered").inner_text() == "only 4 regions may be looked at."
    visitor.waits(visitor.viewer.locator("#again").click)
    assert "4 regions: 0, 1, 4, 5" in visitor.viewer.locator("#about").text_content()
    # By keyboard: the arrows walk, Enter takes a region out again.
    visitor.viewer.locator("#stage").focus()
    browser.press("ArrowRight")
    browser.press("Enter")
    assert visitor.viewer.locator("#steered").inner_text() == "only 3 regions may be looked at."
    visitor.viewer.locator("#clear").click()

    assert "28 visual" in visitor.dial(7)


def test_three_ways_stand_beside_each_other(browser: Browser, address: str, picture: Path) -> None:
    visitor = Visitor(browser, address)
    browser.page.click("#compare")
    browser.page.wait_for_selector("#status .error")
    assert "ask something first" in browser.page.inner_text("#status")
    visitor.drop(picture)
    visitor.waits(lambda: visitor.ask("What?"))
    browser.page.click("#compare")
    panes = browser.page.frame_locator("#panes_frame iframe")
    panes.locator("#panes[aria-busy=false]").wait_for()
    table = browser.page.inner_text("#ways")
    assert re.search(r"dense\s+68\s+64\s+64", table) and re.search(r"gaze, K=\d+\s+\d+\s+\d+\s+64", table)
    gaze = panes.frame_locator("iframe >> nth=1")
    gaze.locator("#w1").click()
    others = [panes.frame_locator(f"iframe >> nth={n}") for n in (0, 2)]
    for other in others:
        other.locator("#w1[aria-selected=true]").wait_for()


def test_a_new_chat_and_what_is_refused(browser: Browser, address: str, picture: Path, tmp_path: Path) -> None:
    visitor = Visitor(browser, address)
    visitor.drop(picture)
    text = "<img src=x onerror='window.broken = 1'> &amp; **no** $x$"
    visitor.waits(lambda: visitor.ask(text))
    assert browser.run("window.broken") is None and text in browser.page.inner_text("#chat")
    browser.page.click("#new")
    browser.page.wait_for_function("() => !document.querySelector('#chat').innerText.includes('onerror')")
    visitor.viewer.locator("#words [role=option]").first.wait_for(state="detached")
    broken = tmp_path / "x.png"
    broken.write_bytes(b"no picture")
    visitor.drop(broken)
    visitor.ask("What?")
    browser.page.wait_for_selector("#status .error")
    assert "x.png" in browser.page.inner_text("#status") and visitor.said() == ""


def test_on_a_wide_screen_the_viewer_is_left_of_the_chat(browser: Browser, address: str) -> None:
    visitor = Visitor(browser, address)
    viewer, chat, dial = (browser.page.locator(name).bounding_box() for name in ("#viewer", "#chat", "#top_k"))
    assert (
        viewer["x"] + viewer["width"] <= chat["x"]
        and abs(chat["x"] - dial["x"]) < 4
        and abs(viewer["y"] - chat["y"]) < 40
    )
    assert viewer["width"] > 1.3 * chat["width"] and visitor.bottom("#box") < dial["y"] < visitor.bottom("#viewer")
    assert browser.overflow() == 0


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_overflows_on_a_phone(browser: Browser, address: str, picture: Path, dark: bool) -> None:
    browser.size(360, 740)
    browser.dark(dark)
    visitor = Visitor(browser, address)
    assert browser.overflow() == 0 and visitor.order() == ["chat", "box", "viewer", "top_k"]
    assert visitor.bottom("#box") < 740 < visitor.bottom("#viewer")  # asking takes no scrolling
    visitor.drop(picture)
    assert visitor.bottom("#box") < 740
    visitor.waits(lambda: visitor.ask("Supercalifragilistic" * 6))
    assert browser.overflow() == 0 and browser.run("scrollY") == 0
    assert visitor.bottom("#box") < visitor.bottom("#status") < 740
    wide, window = visitor.viewer.locator("html").evaluate("(page) => [page.scrollWidth, window.innerWidth]")
    assert wide <= window

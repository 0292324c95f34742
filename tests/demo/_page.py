"""The demo's page on a free port, as a visitor sees it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cambrian_gaze.demo.talk import Talker
from tests.viz._browser import Browser


@contextmanager
def serving(talker: Talker) -> Iterator[str]:
    """The page's address."""
    from cambrian_gaze.demo.app import serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page, address, folder = serve(talker, port=port, block=False)
    try:
        yield address
    finally:
        page.close()
        folder.cleanup()


class Visitor:
    """What a person does in the page."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.page, self.browser = browser.page, browser
        browser.open(address, "document.querySelector('#box textarea')")
        self.viewer = self.page.frame_locator("#viewer iframe")
        self.viewer.locator("#page[aria-busy=false]").wait_for()

    def drop(self, path: Path) -> None:
        self.page.set_input_files("#box input[type=file]", str(path))
        self.page.locator(
            "#box button[aria-label*=Remove], #box .thumbnails button, #box .thumbnail-item"
        ).first.wait_for()

    def ask(self, text: str) -> None:
        self.page.fill("#box textarea", text)
        self.page.keyboard.press("Enter")

    def settled(self) -> str:
        """The status, once an answer is whole."""
        self.page.wait_for_function(
            "() => document.querySelector('#status').innerText.includes('first token after') && "
            "!document.querySelector('#trace').disabled"
        )
        return self.page.inner_text("#status")

    def waits(self, act: Any) -> str:
        """Does something that is answered, and waits for the whole answer; the status."""
        before = self.said()
        act()
        self.page.wait_for_function(
            "(before) => { const now = document.querySelectorAll('#chat .bot'); "
            "return [...now].map((one) => one.innerText).join('|') !== before; }",
            arg=before,
        )
        return self.settled()

    def said(self) -> str:
        """All answers in the chat."""
        return "|".join(self.page.locator("#chat .bot").all_inner_texts())

    def steer(self, how: str, regions: list[int]) -> None:
        """Makes regions "hidden", or "forced": the only ones left to look at."""
        self.viewer.locator(f"input[value={how}]").check()
        for region in regions:
            self.viewer.locator(f"[data-region='{region}']").click()

    def dial(self, k: int) -> str:
        """Another K, with which the last question is answered again; the status."""
        slider = self.page.locator("#top_k input[type=range]")
        slider.focus()
        slider.fill(str(k))
        slider.dispatch_event("pointerup")
        self.page.wait_for_function(f"() => document.querySelector('#chat').innerText.includes('[K = {k}]')")
        return self.settled()

    def download(self, button: str, folder: Path) -> Path:
        """The file that a button gives."""
        with self.page.expect_download() as told:
            self.page.click(button)
        path = folder / told.value.suggested_filename
        told.value.save_as(path)
        return path

    def bottom(self, selector: str) -> float:
        """Where an element ends, in CSS pixels from the top of the page."""
        return self.browser.run(
            f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().bottom + window.scrollY"
        )

    def order(self) -> list[str]:
        """The parts of the page from the top."""
        return sorted(("chat", "box", "viewer", "top_k"), key=lambda name: self.bottom(f"#{name}"))

    def words(self) -> str:
        """The answer in the viewer, which is drawn anew a moment after the chat."""
        answer = "".join(self.page.locator("#chat .bot").last.inner_text().split("]")[-1].split())
        for _ in range(50):
            words = self.viewer.locator("#words").inner_text()
            if answer in "".join(words.split()):
                break
            self.page.wait_for_timeout(100)
        return words

"""The documentation as a site: it builds without a warning, and nothing in it is fetched from elsewhere."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)
    assert result.returncode == 0, (
        result.stderr + "\nmkdocs.yml lists the pages; docs/hooks/repository.py brings others"
    )
    return folder


class References(HTMLParser):
    """What a page fetches (`fetched`), and where it leads (`links`)."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "preconnect", "dns-prefetch"):
            self.fetched.append(given["href"])
        if tag in FETCHED and FETCHED[tag] in given:
            self.fetched.append(given[FETCHED[tag]])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])


def is_foreign(target: str) -> bool:
    return re.match(r"(https?:)?//", target) is not None


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    foreign = {page.name: [t for t in References(page).fetched if is_foreign(t)] for page in site.rglob("*.html")}
    assert len(foreign) > 40 and not {page: targets for page, targets in foreign.items() if targets}
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )[\"']?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name
    assert not any('class="mermaid"' in page.read_text() for page in site.rglob("*.html")), "it would load a script"


def test_everything_that_is_named_is_there(site: Path) -> None:
    """Links and pictures written in HTML too, at which mkdocs does not look."""
    missing = []
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # its addresses begin with a slash
            continue
        found = References(page)
        for target in (*found.fetched, *found.links):
            path = re.split(r"[?#]", target)[0]
            if path and not is_foreign(target) and not target.startswith(("mailto:", "data:", "javascript:")):
                place = page.parent / path
                if not (place.is_file() or (place / "index.html").is_file()):
                    missing.append(f"{page.relative_to(site)}: {target}")
    assert not missing


def test_pages_can_be_searched(site: Path) -> None:
    entries = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    texts = {entry["location"].split("#")[0]: "" for entry in entries}
    for entry in entries:
        texts[entry["location"].split("#")[0]] += entry["title"] + entry["text"]
    assert "Projector" in texts["follow_a_sample.html"]
    assert "register_descriptor" in texts["reference/gaze.html"], "docstrings stand in the reference"
    assert not [place for place in texts if place.endswith(".py.html")], "listings of source are not searched"


def test_the_reference_is_whole(site: Path) -> None:
    """Each directive of a page has become a section."""
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        html = (site / "reference" / f"{page.stem}.html").read_text(encoding="utf-8")
        modules = re.findall(r"<!-- ::: ([\w.]+) -->", page.read_text(encoding="utf-8"))
        assert modules and not [name for name in modules if f'id="{name}"' not in html], page.name

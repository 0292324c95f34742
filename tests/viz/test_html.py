import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from cambrian_gaze.viz.html import VOID, Column, Html, Page, data_uri, element, facts, markup, picture, table, tiles


class Checker(HTMLParser):
    """Follows the nesting of a document and collects what it shows and what it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "poster", "action", "xlink:href"):
                self.loads.append(value)
            if name.startswith("on"):
                self.handlers.append(name)
            if name == "style":
                self.loads += re.findall(r"url\(([^)]*)", value)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            assert "@import" not in data and "url(" not in data
        else:
            self.text.append(data)


def checked(document: str) -> Checker:
    """Asserts that a document is well-formed and loads nothing; returns what was found in it."""
    checker = Checker()
    checker.feed(document)
    checker.close()
    assert not checker.open, f"never closed: {checker.open}"
    assert not checker.handlers
    assert "script" not in checker.tags and "link" not in checker.tags and "iframe" not in checker.tags
    assert all(target.startswith("data:image/png;base64,") for target in checker.loads)
    return checker


HOSTILE = "<script>alert('x')</script> & \"quoted\""


def test_text_is_escaped_and_markup_is_not():
    assert markup("<b>") == "&lt;b&gt;"
    assert markup(Html("<b></b>")) == "<b></b>"
    assert markup(None) == "" and markup(3) == "3"
    assert markup(["<", Html("<br>")]) == "&lt;<br>"
    assert element("p", HOSTILE, title=HOSTILE).count("<") == 2
    assert element("a", class_="x", fill_opacity=0.5, style=None) == '<a class="x" fill-opacity="0.5"></a>'


def test_a_plain_concatenation_is_text_again():
    assert not isinstance(Html("<b>") + "<i>", Html)


def test_a_page_is_one_well_formed_document():
    page = Page(HOSTILE, HOSTILE)
    page.section(HOSTILE, tiles([(HOSTILE, HOSTILE, HOSTILE)]), facts({HOSTILE: HOSTILE}), lead=HOSTILE)
    page.section(None, table([HOSTILE], [[HOSTILE]], caption=HOSTILE), picture(Image.new("RGB", (2, 2)), HOSTILE))
    document = page.render()
    assert document.startswith("<!DOCTYPE html>")
    found = checked(document)
    assert found.text.count(HOSTILE) == 13
    assert "prefers-color-scheme: dark" in document and 'content="default-src &#x27;none&#x27;' in document
    assert "http://" not in document and "https://" not in document


def test_tables_align_numbers_and_show_what_is_missing():
    document = table([Column("arm"), Column("n", True, "{:,}")], [["a", 2048], ["b", None]], strong=[1])
    assert '<td class="number">2,048</td>' in document and '<td class="number">–</td>' in document
    assert document.count('<tr class="strong">') == 1 and '<th scope="col">arm</th>' in document
    assert Column("x", format=lambda value: f"<{value}>").cell(1) == "&lt;1&gt;"
    with pytest.raises(ValueError, match="row 1 has 1 cells, but there are 2 columns"):
        table(["a", "b"], [[1, 2], [3]])


def test_pictures_are_embedded():
    assert data_uri(Image.new("RGB", (3, 3), (1, 2, 3))).startswith("data:image/png;base64,iVBOR")


def test_the_file_is_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "page.html"
    Page("one").write(path)
    first = path.read_text(encoding="utf-8")

    class Broken(Page):
        def render(self):
            return object()  # cannot be written

    with pytest.raises(AttributeError):
        Broken("two").write(path)
    assert path.read_text(encoding="utf-8") == first
    assert [entry.name for entry in path.parent.iterdir()] == ["page.html"]

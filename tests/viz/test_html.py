import re
from html.parser import HTMLParser

import jinja2
import pytest
from PIL import Image

from cambrian_gaze.viz import html
from cambrian_gaze.viz.html import VOID, Column, Html, Table, data_uri, element


class Checker(HTMLParser):
    """Follows the nesting of a document and collects what it shows and what it would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.handlers: list[str] = []
        self.names: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        given = dict(attrs)
        assert tag != "img" or given.get("alt"), "a picture says what it shows"
        assert tag != "th" or given.get("scope"), "a heading of a table says of what"
        self.names += [given["id"]] if "id" in given else []
        for name, value in attrs:
            if tag == "a" and name == "href":
                self.leads.append(value)
            elif name in ("src", "href", "srcset", "data", "poster", "action", "xlink:href"):
                self.loads += [] if value.startswith("#") else [value]
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
    assert not any(":" in target or target.startswith("/") for target in checker.leads), "to pages beside this one"
    assert len(checker.names) == len(set(checker.names)), "each id once"
    levels = [int(tag[1]) for tag in checker.tags if re.fullmatch("h[1-6]", tag)]
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False)), "headings in order"
    return checker


HOSTILE = "<script>alert('x')</script> & \"quoted\""


PARTS = """{% extends "page.html" %}{% import "parts.html" as parts %}{% block sections %}
{{ parts.tiles([(text, text, text)]) }}{{ parts.facts({text: text}) }}{{ parts.bullets([text]) }}
{{ parts.table(table) }}<img src="{{ image | data_uri }}" alt="{{ text }}">{% endblock %}"""


def page_of_parts(**values) -> str:
    return html.environment().from_string(PARTS).render(**values)


def test_text_is_escaped_and_markup_is_not():
    assert element("p", "<b>", Html("<br>"), None, 3, ["<", Html("<br>")]) == "<p>&lt;b&gt;<br>3&lt;<br></p>"
    assert element("p", HOSTILE, title=HOSTILE).count("<") == 2
    assert element("a", class_="x", fill_opacity=0.5, style=None) == '<a class="x" fill-opacity="0.5"></a>'


def test_text_beside_markup_stays_text():
    assert Html("<b>") + "<i>" == "<b>&lt;i&gt;"


def test_a_page_is_one_well_formed_document():
    table = Table([HOSTILE], [[HOSTILE]], HOSTILE, HOSTILE)
    document = page_of_parts(title=HOSTILE, subtitle=HOSTILE, text=HOSTILE, table=table, image=Image.new("RGB", (2, 2)))
    assert document.startswith("<!DOCTYPE html>")
    found = checked(document)
    assert found.text.count(HOSTILE) == 13
    assert "prefers-color-scheme: dark" in document and "content=\"default-src 'none';" in document
    assert "http://" not in document and "https://" not in document


def test_a_template_that_asks_for_what_it_was_not_given_fails():
    with pytest.raises(jinja2.UndefinedError, match="'subtitle' is undefined"):
        html.render("page.html", title="t")


def test_tables_align_numbers_and_show_what_is_missing():
    table = Table([Column("arm"), Column("n", True, "{:,}")], [["a", 2048], ["b", None]], strong=[1])
    document = str(html.environment().get_template("parts.html").module.table(table))
    assert '<td class="number">2,048</td>' in document and '<td class="number">–</td>' in document
    assert document.count('<tr class="strong">') == 1 and '<th scope="col">arm</th>' in document
    assert '<th scope="row">a</th>' in document
    assert Column("x", format=lambda value: f"<{value}>").cell(1) == "<1>"
    with pytest.raises(ValueError, match="row 1 has 1 cells, but there are 2 columns"):
        Table(["a", "b"], [[1, 2], [3]])


def test_pictures_are_embedded():
    assert data_uri(Image.new("RGB", (3, 3), (1, 2, 3))).startswith("data:image/png;base64,iVBOR")


def test_the_file_is_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "page.html"
    html.write(path, "page.html", title="one", subtitle="")
    first = path.read_text(encoding="utf-8")
    with pytest.raises(jinja2.UndefinedError):
        html.write(path, "page.html", title="two")
    assert path.read_text(encoding="utf-8") == first
    assert [entry.name for entry in path.parent.iterdir()] == ["page.html"]

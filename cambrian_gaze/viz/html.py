"""A self-contained HTML page from small pieces. Plain strings are always escaped; only `Html` passes as it is."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from cambrian_gaze.files import write_text
from cambrian_gaze.viz.style import STYLE

VOID = {"img", "meta", "br", "hr"}
# Nothing may be loaded from anywhere: the page says so to the browser too.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Markup made by this module, inserted as it is. Every other string counts as text."""

    __slots__ = ()


def markup(value: Any) -> Html:
    """Text becomes escaped markup; `Html` stays; None is nothing; lists are joined."""
    if isinstance(value, Html):
        return value
    if value is None:
        return Html("")
    if isinstance(value, (list, tuple)):
        return Html("".join(markup(part) for part in value))
    return Html(html.escape(str(value), quote=True))


def element(tag: str, *children: Any, **attributes: Any) -> Html:
    """One element. Attribute names lose a trailing underscore and take hyphens for the others (`class_`,
    `fill_opacity`); attributes that are None are left out."""
    names = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    opening = "".join(f' {name}="{html.escape(str(value), quote=True)}"' for name, value in names.items())
    if tag in VOID:
        return Html(f"<{tag}{opening}>")
    return Html(f"<{tag}{opening}>{markup(children)}</{tag}>")


def paragraph(*text: Any, quiet: bool = False) -> Html:
    return element("p", *text, class_="quiet" if quiet else None)


def bullets(lines: Iterable[Any]) -> Html:
    return element("ul", [element("li", line) for line in lines])


def tiles(items: Iterable[tuple[Any, Any, Any]]) -> Html:
    """Key numbers as (label, value, hint)."""
    cells = [
        element(
            "div",
            element("div", label, class_="label"),
            element("div", value, class_="value"),
            element("div", hint, class_="hint"),
            class_="tile",
        )
        for label, value, hint in items
    ]
    return element("div", cells, class_="tiles")


def facts(pairs: Mapping[str, Any]) -> Html:
    """A definition list: hardware, versions, settings."""
    return element("dl", [[element("dt", name), element("dd", value)] for name, value in pairs.items()])


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    """Its heading."""
    number: bool = False
    """Right-aligned with figures of equal width."""
    format: str | Callable[[Any], Any] = "{}"
    """How a cell is written: a format string or a function; None is written as a dash."""

    def cell(self, value: Any) -> Html:
        if value is None:
            return markup("–")
        if isinstance(value, Html):
            return value
        return markup(self.format(value) if callable(self.format) else self.format.format(value))


def table(
    columns: Sequence[Column | str], rows: Iterable[Sequence[Any]], *, caption: Any = None, strong: Iterable[int] = ()
) -> Html:
    """A table; `strong` names the rows (from 0) to set off. A row of the wrong length is an error."""
    columns = [Column(column) if isinstance(column, str) else column for column in columns]
    kinds = ["number" if column.number else None for column in columns]
    strong = set(strong)
    heads = [element("th", c.name, class_=kind, scope="col") for c, kind in zip(columns, kinds, strict=True)]
    body = []
    for place, row in enumerate(rows):
        if len(row) != len(columns):
            raise ValueError(f"table row {place} has {len(row)} cells, but there are {len(columns)} columns")
        cells = [element("td", c.cell(value), class_=kind) for c, value, kind in zip(columns, row, kinds, strict=True)]
        body.append(element("tr", cells, class_="strong" if place in strong else None))
    title = element("caption", caption) if caption else None
    whole = element("table", title, element("thead", element("tr", heads)), element("tbody", body))
    return element("div", whole, class_="scroll")


def data_uri(image: Image.Image) -> str:
    """The picture as a PNG inside a URI."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def picture(image: Image.Image, alt: str, *, width: int | None = None, crisp: bool = False) -> Html:
    """An embedded picture, `width` CSS pixels wide at most; `crisp` keeps hard pixels when it is enlarged."""
    style = f"width:{int(width)}px" if width else None
    return element("img", src=data_uri(image), alt=alt, style=style, class_="crisp" if crisp else None)


def figure(content: Any, caption: Any = None, *, title: Any = None, class_: str | None = None) -> Html:
    heading = element("div", title, class_="title") if title else None
    return element("figure", heading, content, element("figcaption", caption) if caption else None, class_=class_)


def grid(*blocks: Any) -> Html:
    """Blocks side by side while there is room."""
    return element("div", *blocks, class_="grid")


def details(summary: Any, *content: Any) -> Html:
    """Content that opens on a click, without any script."""
    return element("details", element("summary", summary), *content)


class Page:
    """A page of sections. `render()` gives the whole document, `write(path)` stores it atomically."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self.subtitle = subtitle
        self._sections: list[Html] = []

    def section(self, title: str | None, *blocks: Any, lead: Any = None) -> Page:
        """Adds a section and returns the page."""
        heading = element("h2", title) if title else None
        intro = element("p", lead, class_="lead") if lead else None
        self._sections.append(element("section", heading, intro, *blocks))
        return self

    def render(self) -> str:
        head = element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=POLICY),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("title", self.title),
            element("style", Html(STYLE)),
        )
        subtitle = element("p", self.subtitle, class_="subtitle") if self.subtitle else None
        header = element("header", element("h1", self.title), subtitle)
        body = element("body", element("main", header, self._sections))
        return "<!DOCTYPE html>\n" + element("html", head, body, lang="en") + "\n"

    def write(self, path: str | os.PathLike) -> Path:
        return write_text(path, self.render())

"""Self-contained HTML pages from the templates in `assets/pages`. Text is escaped; only `Html` passes as it is."""

from __future__ import annotations

import base64
import functools
import io
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup as Html
from markupsafe import escape
from PIL import Image

from cambrian_gaze.files import write_text

if TYPE_CHECKING:
    import jinja2

__all__ = ["Column", "Html", "Table", "data_uri", "deflated", "element", "escape", "inflated", "render", "write"]

_PLAIN, _CODED = bytes.maketrans(b"&<>", b",.:"), bytes.maketrans(b",.:", b"&<>")
"""Of Python's base 85 the characters that a script element may not hold, and others in their place."""
VOID = {"img", "meta", "br", "hr"}


@functools.lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """Templates of this package: every value is escaped, an unknown name is an error."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("cambrian_gaze", "assets/pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["data_uri"] = data_uri
    return made


def render(template: str, **values: Any) -> str:
    """The whole document that a template makes of `values`."""
    return environment().get_template(template).render(**values)


def write(path: str | os.PathLike, template: str, **values: Any) -> Path:
    """Writes that document atomically and returns its path."""
    return write_text(path, render(template, **values))


def element(tag: str, *children: Any, **attributes: Any) -> Html:
    """One element, for drawings. Attribute names lose a trailing underscore and take hyphens for the others (`class_`,
    `fill_opacity`); attributes that are None are left out."""
    names = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    opening = "".join(f' {name}="{escape(value)}"' for name, value in names.items())
    if tag in VOID:
        return Html(f"<{tag}{opening}>")
    return Html(f"<{tag}{opening}>{_markup(children)}</{tag}>")


def _markup(value: Any) -> Html:
    """Text becomes escaped markup; `Html` stays; None is nothing; lists are joined."""
    if isinstance(value, list | tuple):
        return Html("").join(map(_markup, value))
    return Html("") if value is None else escape(value)


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    """Its heading."""
    number: bool = False
    """Right-aligned with figures of equal width."""
    format: str | Callable[[Any], Any] = "{}"
    """How a cell is written: a format string or a function; None is written as a dash."""

    def cell(self, value: Any) -> Any:
        """What stands in a cell."""
        if value is None:
            return "–"
        return self.format(value) if callable(self.format) else self.format.format(value)


@dataclass(frozen=True)
class Table:
    """A table; the cells of its first column are the headings of their rows.

    Raises: ValueError where a row is shorter or longer than the columns.
    """

    columns: Sequence[Column | str]
    rows: Iterable[Sequence[Any]]
    title: str = ""
    note: str = ""
    strong: Iterable[int] = ()
    """Rows (from 0) to set off."""

    def __post_init__(self) -> None:
        columns = [Column(column) if isinstance(column, str) else column for column in self.columns]
        rows = [list(row) for row in self.rows]
        for place, row in enumerate(rows):
            if len(row) != len(columns):
                raise ValueError(f"table row {place} has {len(row)} cells, but there are {len(columns)} columns")
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "rows", rows)


def data_uri(image: Image.Image) -> str:
    """The picture as a PNG inside a URI."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def deflated(array: np.ndarray) -> str:
    """The bytes of an array for a page's script: deflated, in base 85, a quarter longer than they where base 64 is a
    third."""
    return base64.b85encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).translate(_PLAIN).decode()


def inflated(text: str) -> bytes:
    """The bytes of the array that `deflated` was given."""
    return zlib.decompress(base64.b85decode(text.encode().translate(_CODED)))

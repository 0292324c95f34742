"""This project's style on matplotlib: SVG that follows a page's colours in light and dark, and pictures for folders.

Neither pyplot nor a window is touched. matplotlib is the extra `charts`; it is imported when something is drawn.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from PIL import Image

from cambrian_gaze.extras import require
from cambrian_gaze.viz.html import Html, escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DENSE, FIRST, SECOND, THIRD = "dense", "first", "second", "third"
"""Colours of lines and marks: dark enough to write with, and told apart by the colour-blind."""
SERIES = tuple(f"series-{place}" for place in range(1, 7))

_ROLES = ("text", "quiet", "line", "surface", "soft", "accent", "below", DENSE, FIRST, SECOND, THIRD, *SERIES)
_STAND_INS = {role: f"#01fe{place:02x}" for place, role in enumerate(_ROLES)}
"""Colour → what matplotlib draws with in its place; the SVG has a CSS variable of the page there."""

INK, QUIET, LINE, BAR, MARK = "#181c25", "#6b7280", "#e2e6ec", "#2563eb", "#b8530a"
"""Colours of pictures, which have one ground."""

_STYLE = {
    "figure.dpi": 72,  # a point is a pixel
    "figure.constrained_layout.w_pad": 6 / 72,
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.labelsize": 12,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.spines.bottom": False,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "xtick.major.pad": 6,
    "ytick.major.pad": 6,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "butt",
    "lines.solid_joinstyle": "round",
    "legend.frameon": False,
    "legend.borderpad": 0,
    "legend.borderaxespad": 0.25,
    "legend.handlelength": 1.3,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.6,
    "svg.fonttype": "none",  # text stays text: small, found by searches, in the page's own font
    "text.parse_math": False,  # names are shown as they are, dollar signs too
}


def available() -> bool:
    """Whether matplotlib is installed."""
    try:
        require("matplotlib", "charts")
    except ImportError:
        return False
    return True


def colour(role: str) -> str:
    """A colour of the page ("text", "quiet", "series-1", ...) as matplotlib takes it; others stay as they are."""
    return _STAND_INS.get(role, role)


def plain(text: object) -> str:
    """Text as a label: on one line, without characters that XML refuses."""
    return "".join(c if c.isprintable() else " " for c in str(text))


def number(value: float) -> str:
    """A short number: 12k, 0.25, 3."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:.4g}"


def svg(
    width: int, height: int, label: str, draw: Callable[[Figure], None], layout: str | None = "constrained"
) -> Html:
    """What `draw` puts on a figure of so many pixels, as an `svg` element for a page. `label` is read out in its place.
    It grows and shrinks with the page, though not below what can be read: then it scrolls.

    Raises: ImportError without matplotlib; names the extra.
    """
    with _figure(width, height, layout) as figure:
        draw(figure)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    body = buffer.getvalue().partition("</defs>")[2].rpartition("</svg>")[0]
    body = re.sub(r"<[^!][^>]*>", lambda tag: _tidy(tag.group()), body)
    body = re.sub(r"<defs>\s*</defs>", "", re.sub(r">\s+<", "><", body.strip()))
    for _ in range(3):  # groups that hold nothing, and groups of these
        body = re.sub(r"<g/>|<g></g>", "", body)
    names = list(dict.fromkeys(re.findall(r' id="(\w+)"', body)))
    own = hashlib.sha256((label + body).encode()).hexdigest()[:8]  # two charts of a page must not share a name
    for place, name in enumerate(names):
        body = body.replace(f'id="{name}"', f'id="c{own}-{place}"').replace(f"#{name}", f"#c{own}-{place}")
    style = f"width:100%;min-width:{min(width, max(320, round(0.7 * width)))}px;max-width:{round(1.15 * width)}px"
    return Html(
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(plain(label))}" style="{style}" stroke-linejoin="round">{body}</svg>'
    )


def picture(width: int, height: int, draw: Callable[[Figure], None], scale: int = 2) -> Image.Image:
    """What `draw` puts on white paper of so many units, `scale` pixels each, as an RGB picture.

    Raises: ImportError without matplotlib; names the extra.
    """
    with _figure(width, height, "constrained") as figure:
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=72 * scale, facecolor="white")
    return Image.open(buffer).convert("RGB")


def drawable(text: str) -> str:
    """Text with the letters that the font of pictures lacks as escapes."""
    manager = require("matplotlib.font_manager", "charts")
    known = manager.get_font(manager.findfont("DejaVu Sans")).get_charmap()
    return "".join(c if ord(c) in known else c.encode("unicode_escape").decode() for c in plain(text))


@contextlib.contextmanager
def _figure(width: int, height: int, layout: str | None) -> Iterator[Figure]:
    """An empty figure of so many pixels, whose SVG is the same each time."""
    require("matplotlib", "charts")
    import matplotlib.figure
    import matplotlib.style

    look = {**_STYLE, "svg.hashsalt": "chart", "text.color": colour("text")}
    look |= {f"{axis}tick.labelcolor": colour("quiet") for axis in "xy"} | {"axes.labelcolor": colour("quiet")}
    with matplotlib.style.context([look], after_reset=True), warnings.catch_warnings():
        # The reader's own font shows the letters that matplotlib's lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield matplotlib.figure.Figure(figsize=(width / 72, height / 72), layout=layout)


_VARIABLES = {stand_in: f"var(--{role})" for role, stand_in in _STAND_INS.items()}


def _tidy(tag: str) -> str:
    """A tag of matplotlib's SVG without names of groups, families of fonts and digits that nobody sees, in the page's
    colours."""
    if tag.startswith("<g"):
        tag = re.sub(r' id="[^"]*"', "", tag)
    tag = re.sub(r'(?<= style=")[^"]*', lambda style: _look(style.group()), tag)
    tag = re.sub(r' transform="rotate\(-?0 [^"]*\)"', "", tag)
    tag = re.sub(r"#01fe[0-9a-f]{2}", lambda stand_in: _VARIABLES[stand_in.group()], tag)
    tag = re.sub(r"-?\d+\.\d+", lambda figure: f"{round(float(figure.group()), 2):g}", tag)
    return re.sub(r"\s*\n", " ", tag).replace("xlink:href", "href").replace(' z "', 'z"')


def _look(style: str) -> str:
    """Declarations of a style in one order, which releases of matplotlib do not share, without a family of fonts."""
    parts = dict(part.strip().split(": ", 1) for part in style.split(";") if part.strip())
    if found := re.match(r"(?:(\d+) )?([\d.]+px) ", parts.pop("font", "")):  # the short form, until 3.10
        parts |= {"font-size": found[2]} | ({"font-weight": found[1]} if found[1] else {})
    return "; ".join(f"{name}: {value}" for name, value in sorted(parts.items()) if name != "font-family")

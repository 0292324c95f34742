"""A chart as an SVG file of its own, for Markdown pages: title, note, its own ground, light and dark."""

from __future__ import annotations

import re

from cambrian_gaze.viz.html import Html, element

STYLE = """
:root { --surface:#fff; --text:#181c25; --quiet:#566070; --line:#e2e6ec; --dense:#4b5563; --first:#1d5fd6;
  --second:#b8530a; --third:#0b7a62; --accent:#1d5fd6; --series-6:#4b5563 }
@media (prefers-color-scheme: dark) {
  :root { --surface:#151a21; --text:#e7eaf0; --quiet:#a3adbb; --line:#2b313a; --dense:#b6c0cd; --first:#7aaaff;
    --second:#ffa45c; --third:#45d0a8; --accent:#7aaaff; --series-6:#b6c0cd }
}
text { fill:var(--text); font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,
  "DejaVu Sans",sans-serif; font-variant-numeric:tabular-nums }
.title { font-size:15px; font-weight:650 }
.note { font-size:12.5px; fill:var(--quiet) }
"""

HEAD, EDGE = 56, 14
"""Pixels above the chart, for title and note, and around everything."""


def picture(chart: Html, title: str, note: str) -> str:
    """The SVG document of a chart made by this package. GitHub shows it on either of its grounds, whose colour it does
    not rely on. Raises ValueError where the chart had nothing to draw."""
    size = re.match(r'<svg viewBox="0 0 (\d+) (\d+)"', chart)
    if size is None:
        raise ValueError(f"the picture {title!r} has nothing to draw: {chart}")
    width, height = (int(part) for part in size.groups())
    whole = width + 2 * EDGE, height + HEAD + EDGE
    ground = element(
        "rect", x=0.5, y=0.5, width=whole[0] - 1, height=whole[1] - 1, rx=8, fill="var(--surface)", stroke="var(--line)"
    )
    drawing = element("g", Html(re.sub(r' style="[^"]*"', "", chart, count=1)), transform=f"translate({EDGE},{HEAD})")
    document = element(
        "svg",
        element("style", Html(STYLE)),
        ground,
        element("text", title, x=EDGE + 2, y=27, class_="title"),
        element("text", note, x=EDGE + 2, y=46, class_="note"),
        drawing,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {whole[0]} {whole[1]}",
        width=whole[0],
        height=whole[1],
        role="img",
        aria_label=f"{title}. {note}",
    )
    return document + "\n"

"""The page of `cambrian-gaze gazebench show`: samples with the regions that their answers are read from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw

from cambrian_gaze.gazebench.samples import BenchSample
from cambrian_gaze.viz import html

SIDE = 232
"""CSS pixels of a picture."""
MARK = (29, 95, 214)


def samples_page(samples: Sequence[BenchSample]) -> str:
    """The document: one section per family."""
    families: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        families.setdefault(sample.row["family"], []).append(_sample(sample))
    subtitle = "Rendered pages; each word of an answer says which regions it is read from"
    return html.render("gazebench.html", title="GazeBench", subtitle=subtitle, families=families, side=SIDE)


def _sample(sample: BenchSample) -> dict[str, Any]:
    """What the template shows of a sample."""
    meta = sample.row["meta"]
    words = [
        f"{one['text']} ({', '.join(map(str, one['regions']))})" if one["regions"] else one["text"]
        for one in meta["answer_regions"]
    ]
    needles = ", ".join(meta["needles"]) or "none"
    return {
        "id": sample.row["id"],
        "pictures": [marked(sample, number) for number in range(len(sample.frames))],
        "question": sample.row["question"],
        "answer": " ".join(words),
        "facts": f"needles: {needles}; cells: {meta['context_length']}; hops: {meta['hops']}",
    }


def marked(sample: BenchSample, frame: int) -> Image.Image:
    """A frame with its regions, those that the answer is read from drawn strongly."""
    picture = sample.frames[frame].copy()
    (rows, columns), draw = sample.spec.regions, ImageDraw.Draw(picture)
    needed = {region for one in sample.row["meta"]["answer_regions"] for region in one["regions"]}
    for row in range(rows):
        for column in range(columns):
            x0, x1 = (picture.width * n // columns for n in (column, column + 1))
            y0, y1 = (picture.height * n // rows for n in (row, row + 1))
            if (frame * rows + row) * columns + column in needed:
                draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=MARK, width=max(1, picture.width // 128))
    return picture

"""The page of `cambrian-gaze gazebench show`: samples with the regions that their answers are read from."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from cambrian_gaze.gazebench.samples import BenchSample
from cambrian_gaze.viz import html
from cambrian_gaze.viz.html import Html, element

SIDE = 232
"""CSS pixels of a picture."""
MARK = (29, 95, 214)


def samples_page(samples: Sequence[BenchSample]) -> html.Page:
    """One section per family."""
    page = html.Page("GazeBench", "Rendered pages; each word of an answer says which regions it is read from")
    for family in dict.fromkeys(sample.row["family"] for sample in samples):
        page.section(family, [_sample(sample) for sample in samples if sample.row["family"] == family])
    return page


def _sample(sample: BenchSample) -> Html:
    meta = sample.row["meta"]
    words = [
        f"{one['text']} ({', '.join(map(str, one['regions']))})" if one["regions"] else one["text"]
        for one in meta["answer_regions"]
    ]
    pictures = [
        html.picture(marked(sample, number), f"frame {number + 1}", width=SIDE) for number in range(len(sample.frames))
    ]
    return element(
        "article",
        element("h3", sample.row["id"]),
        html.grid(*pictures),
        html.paragraph(sample.row["question"]),
        html.paragraph(element("strong", " ".join(words))),
        html.paragraph(
            f"needles: {', '.join(meta['needles']) or 'none'}; cells: {meta['context_length']}; hops: {meta['hops']}",
            quiet=True,
        ),
    )


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

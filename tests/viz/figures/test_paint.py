"""A sheet has each place at its very pixels, in pixels and in SVG, and letters that a column's width leaves legible."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cambrian_gaze.viz import canvas
from cambrian_gaze.viz.draw import MAX_ALPHA
from cambrian_gaze.viz.figures import sheet_image, sheet_svg, write_sheet
from cambrian_gaze.viz.figures.sheet import COLUMN, NOTE, TEXT, Sheet, Shot, Span, Strip, Text, layout, scaled
from tests.viz._traces import make_trace

GREY = Image.new("RGB", (300, 200), (100, 100, 100))
PLACE = (30, 50, 130, 150)
NS = "{http://www.w3.org/2000/svg}"


def shot(picture: Image.Image = GREY, **drawn) -> Shot:
    return Shot(make_trace([[picture]]).items[0], 0, **drawn)


def panels(sheet: Sheet, side: int | None = None) -> list[np.ndarray]:
    image = sheet_image(sheet, side)
    spots = layout(sheet, str, side).pictures
    return [np.asarray(image.crop((p.x, p.y, p.x + p.width, p.y + p.height))).astype(int) for p in spots]


def inside(shape: tuple[int, ...], place: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape[:2], dtype=bool)
    mask[place[1] : place[3], place[0] : place[2]] = True
    return mask


@pytest.mark.parametrize("side", [None, 150, 600])
def test_wash_light_and_outline_cover_exactly_their_pixels(side: int | None) -> None:
    strip = Strip([shot(wash=[(PLACE, 0.5)]), shot(light=[(PLACE, 0.25)]), shot(boxes=[PLACE]), shot()])
    washed, dark, boxed, bare = panels(Sheet([strip]), side)
    assert bare.shape == {None: (200, 300, 3), 150: (100, 150, 3), 600: (400, 600, 3)}[side] and (bare == 100).all()
    (place,) = scaled([PLACE], (300, 200), bare.shape[1::-1])
    mask = inside(bare.shape, place)
    assert ((washed != 100).any(-1) == mask).all() and ((dark != 100).any(-1) == mask).all()
    blend = 0.5 * MAX_ALPHA
    expected = [(1 - blend) * 100 + blend * part for part in canvas.GAZE]
    assert np.abs(washed[mask] - expected).max() <= 2 and np.abs(dark[mask] - 25).max() <= 1
    red = (boxed == canvas.TOP).all(-1)
    thick = layout(Sheet([strip]), str, side).stroke
    x0, y0, x1, y1 = place
    assert (red == mask & ~inside(bare.shape, (x0 + thick, y0 + thick, x1 - thick, y1 - thick))).all()
    assert (boxed[~red] == 100).all()


def test_a_small_picture_is_enlarged_by_a_whole_factor_with_hard_pixels() -> None:
    small = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 50, 3), dtype=np.uint8))
    for columns, factor in ((1, 19), (6, 3)):
        drawn = panels(Sheet([Strip([shot(small)] * columns)]))
        assert all((panel == np.asarray(small).repeat(factor, 0).repeat(factor, 1)).all() for panel in drawn)


def test_empty_places_are_left_out() -> None:
    nothing = (0, 0, 0, 0)
    (drawn,) = panels(Sheet([Strip([shot(wash=[(nothing, 1.0)], light=[(nothing, 0.0)], boxes=[nothing])])]))
    assert (drawn == 100).all()


def test_svg_has_the_same_places_in_the_pictures_own_pixels() -> None:
    strip = Strip([shot(wash=[(PLACE, 0.5)], boxes=[PLACE]), shot(light=[(PLACE, 0.25)])], ["<a>", "b"])
    sheet = Sheet([Text([Span("x & y"), Span("bad", wrong=True)]), strip])
    text = sheet_svg(sheet)
    root = ET.fromstring(text)
    plan = layout(sheet, str)
    spots = root.findall(f"{NS}svg")
    for spot, placed in zip(spots, plan.pictures, strict=True):
        where = [int(spot.get(name)) for name in ("x", "y", "width", "height")]
        assert where == [placed.x, placed.y, placed.width, placed.height] and spot.get("viewBox") == "0 0 300 200"
    wash, box = spots[0].findall(f"{NS}rect")
    assert [float(wash.get(name)) for name in ("x", "y", "width", "height")] == [30, 50, 100, 100]
    assert float(wash.get("fill-opacity")) == pytest.approx(0.5 * MAX_ALPHA)
    assert float(box.get("x")) - float(box.get("stroke-width")) / 2 == 30  # the outline lies inside
    (dark,) = spots[1].findall(f"{NS}rect")
    assert float(dark.get("fill-opacity")) == pytest.approx(0.75)
    assert [word.text for word in root.findall(f"{NS}text")] == ["x", "&", "y", "bad", "<a>", "b"]
    assert len(root.findall(f"{NS}defs/{NS}image")) == 1  # one picture, though two show it
    assert not re.search(r"(href|src)=\"(?!data:|#)", text)


@pytest.mark.parametrize("columns", [1, 2, 6])
@pytest.mark.parametrize("side", [None, 60, 900])
def test_letters_can_be_read_in_a_column(columns: int, side: int | None) -> None:
    sheet = Sheet(
        [Text([Span("word " * 60)]), Strip([shot()] * columns, ["above " * 9] * columns, ["below"] * columns)]
    )
    plan = layout(sheet, str, side)
    points = [line.size * COLUMN / plan.width for line in plan.lines]
    assert min(points) >= NOTE and max(points) >= TEXT
    for line in plan.lines:
        assert all(0 <= x and x + long <= plan.width for x, long, _ in line.words)
    edges = [(p.y, p.y + p.height) for p in plan.pictures] + [(line.y - line.size, line.y) for line in plan.lines]
    assert max(end for _, end in edges) <= plan.height
    for line in plan.lines:  # no word lies on a picture
        assert not any(top < line.y and line.y - 0.7 * line.size < end for top, end in edges[: len(plan.pictures)])


def test_what_is_wrong_is_underlined_and_not_only_red() -> None:
    texts = [Text([Span("word"), Span("next", wrong=wrong)]) for wrong in (False, True)]
    right, wrong = (np.asarray(sheet_image(Sheet([text, Strip([shot()])]))).astype(int) for text in texts)
    plan = layout(Sheet([texts[0], Strip([shot()])]), str)
    (line,) = plan.lines
    (x0, long0, _), (x1, long1, _) = line.words
    below = slice(line.y + 1, line.y + line.size // 2)
    assert (right[below, int(x1) : int(x1 + long1)] == 255).all()  # these letters have nothing below the line
    assert (wrong[below, int(x1) + 1 : int(x1 + long1) - 1] != 255).any(-1).any(0).all()
    assert (wrong[below, : int(x0 + long0)] == 255).all()


def test_a_long_text_ends_with_an_ellipsis() -> None:
    plan = layout(Sheet([Text([Span("word " * 500)], lines=2), Strip([shot()])]), str)
    assert len(plan.lines) == 2 and plan.lines[-1].words[-1][2].text == "word..."
    assert plan.lines[-1].words[-1][0] + plan.lines[-1].words[-1][1] <= plan.width


def test_formats(tmp_path: Path) -> None:
    sheet = Sheet([Strip([shot()])])
    for name, start in (("x.png", b"\x89PNG"), ("x.PDF", b"%PDF"), ("x.svg", b"<?xml")):
        assert write_sheet(tmp_path / name, sheet, 100).read_bytes().startswith(start)
    for name in ("x.gif", "x.mp4", "x"):
        with pytest.raises(ValueError, match=r"end the name with one of .png, .pdf, .svg; a GIF or MP4"):
            write_sheet(tmp_path / name, sheet)
    with pytest.raises(ValueError, match="smaller ones"):
        sheet_image(sheet, 20_000)
    with pytest.raises(ValueError, match="side must be at least 1"):
        sheet_image(sheet, 0)
    with pytest.raises(ValueError, match="no picture"):
        sheet_image(Sheet([Text([Span("x")])]))

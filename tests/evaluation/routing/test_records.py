"""`routing.jsonl`, its masks, and where regions lie in a picture."""

import json

import numpy as np
import pytest
from PIL import Image

from cambrian_gaze.data.media.aspect import pad_to_square, region_pixels
from cambrian_gaze.evaluation.routing.captions import phrase_of_tokens
from cambrian_gaze.evaluation.routing.geometry import covered, shown
from cambrian_gaze.evaluation.routing.masks import read_mask
from cambrian_gaze.evaluation.routing.records import Phrase, read_records

coco = pytest.importorskip("pycocotools.mask")
GOOD = {"id": 1, "image": "1.png", "caption": "a cat", "phrases": [{"text": "cat", "masks": [], "spans": [[2, 5]]}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": 3}, "image must be a path"),
        ({"caption": ""}, "caption a text"),
        ({"extra": 1}, "a record holds id, image, phrases"),
        ({"phrases": {}}, "phrases must be a list"),
        ({"phrases": [{"text": "cat"}]}, "a phrase holds masks, text"),
        ({"phrases": [{"text": "cat", "masks": [], "spans": [[2, 6]]}]}, "leave the caption's 5 characters"),
        ({"phrases": [{"text": "cat", "masks": [], "spans": [[2]]}]}, "not enough values"),
        ({"caption": None}, "no caption that they count in"),
    ],
)
def test_bad_records_are_named(change: dict, message: str, tmp_path) -> None:
    (tmp_path / "routing.jsonl").write_text(json.dumps(GOOD) + "\n\n" + json.dumps(GOOD | {"id": 2} | change) + "\n")
    with pytest.raises(ValueError, match=rf"routing.jsonl, line 3: .*{message}"):
        list(read_records(tmp_path))


def test_ids_are_unique_and_files_are_there(tmp_path) -> None:
    with pytest.raises(ValueError, match="routing.jsonl is missing"):
        list(read_records(tmp_path))
    (tmp_path / "routing.jsonl").write_text(2 * (json.dumps(GOOD) + "\n"))
    with pytest.raises(ValueError, match="line 2: id '1' is that of line 1 too"):
        list(read_records(tmp_path))


def test_phrases_are_found_by_span_or_by_text() -> None:
    assert Phrase("cat", (), ((2, 5),)).places("a cat, cat") == [(2, 5)]
    assert Phrase("cat", ()).places("A Cat, cats, cat") == [(2, 5), (13, 16)]
    pieces = [(0, 1), (2, 5), (5, 6), (6, 9)]
    assert phrase_of_tokens(pieces, [[(2, 5)], [(4, 9)]]) == [-1, 0, 1, 1]
    assert phrase_of_tokens(pieces, []) == [-1] * 4


def test_masks_of_every_form(tmp_path) -> None:
    square = np.zeros((6, 8), dtype=np.uint8)
    square[1:3, 2:6] = 1
    code = coco.encode(np.asfortranarray(square))
    counts = [2 * 6 + 1, 2, 4, 2, 4, 2, 4, 2, 2 * 6 + 3]  # column by column, off and on in turn
    panoptic = np.zeros((6, 8, 3), dtype=np.uint8)
    panoptic[1:3, 2:4], panoptic[1:3, 4:6] = (7, 1, 0), (9, 0, 2)
    Image.fromarray(panoptic).save(tmp_path / "p.png")
    for masks in (
        [{"size": [6, 8], "counts": code["counts"].decode()}],
        [{"size": [6, 8], "counts": counts}],
        [[2, 1, 6, 1, 6, 3, 2, 3]],
        [[2, 1, 4, 1, 4, 3, 2, 3], [4, 1, 6, 1, 6, 3, 4, 3]],
        [{"panoptic": "p.png", "ids": [7 + 256, 9 + 2 * 65536]}],
    ):
        assert (read_mask(masks, (8, 6), tmp_path) == square).all()
    assert not read_mask([], (8, 6), tmp_path).any()


@pytest.mark.parametrize(
    ("mask", "message"),
    [({"size": [5, 8], "counts": [40]}, "a mask of 8x5 pixels for a picture of 8x6"), ([1, 2], "a mask is"),
     ({"panoptic": "p.png", "ids": [3]}, "has no segments 3"), ({"panoptic": "../p.png", "ids": [3]}, "p.png")],
)  # fmt: skip
def test_bad_masks_are_named(mask: object, message: str, tmp_path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "p.png")
    with pytest.raises(ValueError, match=message):
        read_mask([mask], (8, 6), tmp_path)


def quarters(grid: int = 4) -> list[tuple[int, ...]]:
    half = grid // 2
    return [(0, 0, 1, y, x, y + half, x + half) for y in (0, half) for x in (0, half)]


def test_stretched_pictures_are_spanned_whole() -> None:
    mask = np.zeros((10, 30), dtype=bool)
    mask[:5, :15] = True
    assert covered(mask, quarters(), (4, 4), "square").tolist() == [75, 0, 0, 0]


def test_padded_pictures_stand_in_the_middle() -> None:
    """The same areas as pixels of the padded picture, whose side is odd and the offset therefore rounded down."""
    rng = np.random.default_rng(0)
    for width, height in ((30, 10), (7, 24), (25, 10), (12, 12)):
        mask = rng.random((height, width)) < 0.4
        areas = covered(mask, quarters(), (4, 4), "pad")
        image = pad_to_square(Image.fromarray(mask).convert("RGB"), (0, 0, 0))
        # Each pixel cut into 4x4, so that the borders of the halves fall between them.
        fine = np.asarray(image)[..., 0].repeat(4, 0).repeat(4, 1) > 0
        half = fine.shape[0] // 2
        expected = [fine[y : y + half, x : x + half].sum() / 16 for y in (0, half) for x in (0, half)]
        assert areas == pytest.approx(expected) and areas.sum() == pytest.approx(mask.sum())


def test_fractions_of_pixels_count() -> None:
    mask = np.ones((3, 3), dtype=bool)
    boxes = [(0, 0, 1, y, x, y + 1, x + 1) for y in range(2) for x in range(2)]
    assert covered(mask, boxes, (2, 2), "square").tolist() == [2.25] * 4
    with pytest.raises(ValueError, match="image_aspect_ratio 'anyres'"):
        shown((3, 3), "anyres")


@pytest.mark.parametrize("aspect", ["pad", "square"])
def test_regions_lie_where_their_pictures_are_drawn(aspect: str) -> None:
    """Where borders fall on pixels, areas are those of `region_pixels`, cut to the picture."""
    boxes = [(0, 0, 1, y, x, y + 1, x + 1) for y in range(4) for x in range(4)]
    for width, height in ((80, 40), (40, 80), (80, 80)):
        areas = covered(np.ones((height, width), dtype=bool), boxes, (4, 4), aspect)
        for box, area in zip(boxes, areas, strict=True):
            x0, y0, x1, y1 = region_pixels(box[3:], (4, 4), (width, height), aspect)
            inside = max(0, min(x1, width) - max(x0, 0)) * max(0, min(y1, height) - max(y0, 0))
            assert area == pytest.approx(inside)

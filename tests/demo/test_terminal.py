"""Pictures in a terminal: every character and colour in its place."""

import re

import numpy as np
import pytest
from PIL import Image

from cambrian_gaze.demo.terminal import LIT, MARK, Canvas, _cube, colours_of, gaze_lines
from tests.viz._traces import make_trace


def pixels(lines: list[str]) -> np.ndarray:
    """uint8 [rows, columns, 3] of lines in true colour."""
    rows: list[list[tuple[int, ...]]] = []
    for line in lines:
        upper, lower, now = [], [], None
        for code in re.findall(r"(\x1b\[38;2;[\d;]+m)?▀", line):
            if code:
                numbers = [int(part) for part in re.findall(r"\d+", code)]
                now = tuple(numbers[2:5]), tuple(numbers[7:10])
            upper.append(now[0])
            lower.append(now[1])
        rows += [upper, lower]
    return np.array(rows)


@pytest.mark.parametrize(("size", "drawn"), [((40, 20), (40, 20)), ((20, 40), (24, 48)), ((400, 10), (40, 2))])
def test_the_whole_picture_is_there_in_its_shape(size: tuple[int, int], drawn: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, (255, 0, 0))
    picture.paste((0, 0, 255), (size[0] // 2, 0, size[0], size[1]))
    shown = pixels(Canvas(40, 24, "true").lines(picture))
    assert shown.shape == (drawn[1], drawn[0], 3)
    assert (shown[:, 0] == (255, 0, 0)).all() and (shown[:, -1] == (0, 0, 255)).all()


def test_regions_light_up_where_they_are() -> None:
    picture = Image.new("RGB", (40, 40), (100, 100, 100))
    places = [(0, 0, 20, 20), (20, 0, 40, 20), (0, 20, 20, 40), (20, 20, 40, 40)]
    shown = pixels(Canvas(40, 20, "true").lines(picture, places, [0.0, 0.5, 0.0, 1.0]))
    assert (shown[:20, :20] == round(100 * LIT)).all()
    assert (shown[:20, 20:] == round(100 * (LIT + (1 - LIT) / 2))).all()
    assert (shown[21:39, 21:39] == 100).all()
    edge = np.ones((20, 20), dtype=bool)
    edge[1:-1, 1:-1] = False
    assert (shown[20:, 20:][edge] == MARK).all()


def test_the_frame_looked_at_most_is_drawn() -> None:
    chosen = np.full((1, 2, 3, 1), 9)  # the first region of the second frame
    trace = make_trace(
        [[Image.new("RGB", (48, 48)), Image.new("RGB", (48, 48), (200, 200, 200))]], chosen=chosen, tokens=["a"]
    )
    lines, name = gaze_lines(Canvas(48, 24, "true"), trace, 0)
    assert name == "video 1, frame 2 of 2" and (pixels(lines)[1:15, 1:15] == 200).all()


@pytest.mark.parametrize(
    ("environment", "terminal", "colours"),
    [
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, True, "true"),
        ({"TERM": "xterm"}, True, "256"),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, "none"),
        ({"TERM": "dumb"}, True, "none"),
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, False, "none"),
    ],
)
def test_colours_are_those_that_there_are(environment: dict[str, str], terminal: bool, colours: str) -> None:
    assert colours_of(environment, terminal) == colours


def test_256_colours_and_none() -> None:
    assert [_cube(np.array(c)) for c in [(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0)]] == [
        16,
        231,
        244,
        196,
    ]
    assert Canvas(8, 4, "none").lines(Image.new("RGB", (8, 8), (255, 255, 255))) == ["@" * 8] * 4

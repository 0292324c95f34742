"""Pictures for papers: regions cover exactly their pixels, in every shape and format."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cambrian_gaze.viz.figure import figure
from cambrian_gaze.viz.render import (
    EDGE,
    EVICTED,
    overlay,
    render_film,
    render_image,
    render_rows,
    render_svg,
    write_figure,
    write_still,
)
from cambrian_gaze.viz.trace import NONE
from tests.viz._traces import make_trace, noise

SHAPES = [(48, 48), (90, 40), (40, 90), (101, 67)]


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("aspect", ["pad", "square"])
@pytest.mark.parametrize("factor", [1, 3])
def test_a_region_is_washed_to_the_pixel(size, aspect, factor) -> None:
    trace = make_trace([[noise(*size)], [noise(*size, seed=s) for s in (1, 2)]], aspect=aspect)
    for token in range(len(trace.tokens)):
        for item, frame in trace.units:
            share = trace.share(token, [0], [0])
            panel = figure(trace, "frame", tokens=[token], layers=[0], heads=[0]).rows[0][item + frame]
            assert panel.unit == (item, frame)
            before = trace.items[item].picture(frame)
            before = before.resize((size[0] * factor, size[1] * factor), Image.Resampling.NEAREST)
            drawn = np.asarray(overlay(trace, panel, factor=factor, top=2))
            expected = np.zeros(drawn.shape[:2], dtype=bool)
            for r in trace.regions_of(item, frame):
                x0, y0, x1, y1 = (factor * edge for edge in trace.pixels[r])
                expected[y0:y1, x0:x1] = share[r] > 0
            assert ((drawn != np.asarray(before)).any(-1) == expected).all()


def test_one_token_is_the_picture_in_its_own_resolution(tmp_path: Path) -> None:
    trace = make_trace([[noise(101, 67)]], aspect="pad")
    path = write_figure(tmp_path / "x.png", trace, figure(trace, tokens=[2]))
    with Image.open(path) as image:
        assert image.size == (101, 67)


def test_small_multiples() -> None:
    trace = make_trace([[noise(90, 40)]], layers=3, heads=4)
    plan = figure(trace, "layer_head", tokens=[1])
    assert (len(plan.rows), plan.width) == (3, 4)
    assert plan.names[2] == "layer 2" and plan.columns[3] == "head 3"
    assert (plan.rows[2][3].share == trace.share(1, [2], [3])).all()
    by_layer = figure(trace, "layer")
    assert (len(by_layer.rows), by_layer.width) == (5, 3)  # the end token is no word
    assert (by_layer.rows[1][2].share == trace.share(1, [2])).all()
    by_head = figure(trace, "head", layers=[1], heads=[0, 3])
    assert (by_head.rows[0][1].share == trace.share(0, [1], [3])).all()
    assert [len(row) for row in figure(trace, columns=4).rows] == [4, 1]
    image = render_image(trace, plan, side=90)
    assert image.width > 4 * 90 and image.height > 3 * 40


def test_svg_has_the_very_pixels_as_numbers() -> None:
    trace = make_trace([[noise(101, 67)]], aspect="square", prompt="<b>")
    trace.tokens[1] = "<&>"
    text = render_svg(trace, figure(trace, tokens=[0, 1]))
    root = ET.fromstring(text)
    svg = "{http://www.w3.org/2000/svg}"
    panels = root.findall(f"{svg}svg")
    assert [panel.get("viewBox") for panel in panels] == ["0 0 101 67"] * 2
    assert root.findall(f"{svg}text")[1].text == "<&>"
    share = trace.share(0)
    drawn = {
        tuple(int(float(rect.get(name))) for name in ("x", "y", "width", "height"))
        for rect in panels[0].findall(f"{svg}rect")
        if rect.get("fill") != "none"
    }
    chosen = [trace.pixels[r] for r in range(9) if share[r] > 0]
    assert drawn == {(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in chosen}
    assert not re.search(r"(href|src)=\"(?!data:|#)", text)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".PNG"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    trace = make_trace([[noise(64, 48, s) for s in range(3)]])
    path = write_figure(tmp_path / f"x{suffix}", trace, figure(trace, "frame", frames=[0, 2]), side=64)
    assert path.read_bytes().startswith({".svg": b"<?xml", ".pdf": b"%PDF"}.get(suffix, b"\x89PNG"))


def test_a_film_shows_a_token_after_the_other(tmp_path: Path) -> None:
    trace = make_trace([[noise(64, 48, s)] for s in range(2)])
    trace.items[1] = make_trace([[noise(30, 90)]]).items[0]
    path = write_figure(tmp_path / "x.gif", trace, figure(trace))
    with Image.open(path) as film:
        assert film.n_frames == 5  # the end token is no word
        assert film.info["duration"] == 700 and film.width >= 64 and film.height >= 48


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"by": "word"}, "by 'word'"),
        ({"tokens": [9]}, "token 9: the trace has tokens 0 to 5"),
        ({"by": "layer", "layers": [2]}, "layer 2"),
        ({"by": "frame", "frames": [1]}, "frame 1"),
        ({"tokens": []}, "no token to show"),
        ({"by": "layer_head", "tokens": [0, 1]}, "of one token"),
    ],
)
def test_what_there_is_not_is_said(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        figure(make_trace(), **options)


def test_other_formats_and_giants_are_refused(tmp_path: Path) -> None:
    trace = make_trace()
    with pytest.raises(ValueError, match="written as .png, .svg, .pdf, .gif, .mp4"):
        write_figure(tmp_path / "x.bmp", trace, figure(trace))
    with pytest.raises(ValueError, match="smaller ones"):
        write_figure(tmp_path / "x.png", trace, figure(trace), side=20_000)


@pytest.mark.parametrize("size", [(48, 48), (51, 33)])
def test_a_film_shows_each_panel_in_turn(tmp_path: Path, size: tuple[int, int]) -> None:
    av = pytest.importorskip("av")
    chosen = np.array([0, 4, 8])[:, None, None, None] * np.ones((1, 2, 3, 1), dtype=int)
    grey = Image.new("RGB", size, (90, 90, 90))
    trace = make_trace([[grey]], tokens=["a", "b", "c"], chosen=chosen)
    path = write_figure(tmp_path / "x.mp4", trace, figure(trace), side=240)
    stills = render_film(trace, figure(trace), side=240)
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        frames = [np.asarray(frame.to_image()) for frame in file.decode(stream)]
        assert stream.average_rate == 10
    assert len(frames) == 21
    high, wide = np.asarray(stills[0]).shape[:2]
    for still, shown in zip(stills, frames[3::7], strict=True):
        assert shown.shape[:2] == (high + high % 2, wide + wide % 2)
        assert np.abs(shown[:high, :wide].astype(int) - np.asarray(still).astype(int)).mean() < 6
    assert [p.name for p in tmp_path.iterdir()] == ["x.mp4"]


def test_what_was_evicted_lies_in_the_dark() -> None:
    trace = make_trace([[Image.new("RGB", (48, 48), (200, 200, 200))]], tokens=["a"])
    trace.regions[:] = NONE
    trace.kept = np.zeros((2, 36), dtype=np.float32)
    trace.kept[:, 7] = 1.0  # row 1, column 1 of 6x6: pixels 8 to 16
    trace.kept[0, 8] = 1.0
    drawn = np.asarray(overlay(trace, figure(trace).rows[0][0]))[..., 0]
    assert (drawn[8:16, 8:16] == 200).all() and (drawn[:8] == round(200 * EVICTED / 255)).all()
    assert np.abs(drawn[8:16, 16:24].astype(int) - 200 * (EVICTED + 255) / 2 / 255).max() <= 1


def test_several_traces_stand_below_each_other(tmp_path: Path) -> None:
    traces = [("gaze", make_trace()), ("other", make_trace(seed=1))]
    plans = [figure(trace) for _, trace in traces]
    alone = [render_image(trace, plan) for (_, trace), plan in zip(traces, plans, strict=True)]
    rows = render_rows(traces, plans)
    assert rows.width == alone[0].width and rows.height > sum(image.height for image in alone)
    y = rows.height - EDGE - alone[1].height
    assert rows.crop((0, y, rows.width, y + alone[1].height)).tobytes() == alone[1].tobytes()
    for suffix in (".png", ".pdf"):
        assert write_still(tmp_path / f"x{suffix}", rows).stat().st_size > 1000
    with pytest.raises(ValueError, match="several traces is written as .png or .pdf"):
        write_still(tmp_path / "x.svg", rows)

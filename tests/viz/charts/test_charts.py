import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cambrian_gaze.viz.charts.axes import ticks
from cambrian_gaze.viz.charts.charts import Interval, Series, heat_map, interval_chart, line_chart, spread, thinned
from tests.viz.test_html import HOSTILE, checked

finite = st.floats(-1e12, 1e12, allow_nan=False).map(lambda value: round(value, 3))


@given(low=finite, high=finite)
def test_ticks_are_few_and_inside(low, high):
    found = ticks(low, high)
    assert 1 <= len(found) <= 12
    if high - low > 1e-6 * max(abs(low), abs(high), 1):
        slack = 1e-6 * (high - low)
        assert all(low - slack <= tick <= high + slack for tick in found)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=60), st.booleans(), st.booleans())
def test_any_numbers_give_a_chart_without_broken_coordinates(values, step, log_y):
    document = line_chart([Series(HOSTILE, range(len(values)), values, step=step)], label=HOSTILE, log_y=log_y)
    checked(document)
    assert not re.search(r'[ "ML,](nan|inf)', document)


def test_points_lie_where_the_axes_say():
    document = line_chart([Series("s", [0, 1], [0, 10])], label="l", y_min=0, y_max=10, width=500, height=270)
    assert 'd="M52.0,230.0L476.0,44.0"' in document


def test_a_logarithmic_axis_has_round_numbers():
    document = line_chart([Series("s", [0, 1], [0.04, 3.0])], label="l", log_y=True)
    assert re.findall(r">([\d.]+)</text>", document)[:6] == ["0.05", "0.1", "0.2", "0.5", "1", "2"]
    wide = line_chart([Series("s", [0, 1], [1e-9, 1e9])], label="l", log_y=True)
    assert 2 <= len(re.findall(r'class="rule"', wide)) <= 8


def test_stairs_and_gaps():
    assert 'd="M52.0,230.0L264.0,230.0L264.0,44.0L476.0,44.0L476.0,44.0"' in line_chart(
        [Series("s", [0, 1, 2], [0, 1, 1], step=True)], label="l", y_min=0, y_max=1
    )
    gap = line_chart([Series("s", [0, 1, 2, 3], [0, math.nan, 1, 1])], label="l", y_min=0, y_max=1)
    assert gap.count("M52.0,230.0M") == 1


def test_long_series_are_thinned_without_losing_a_spike():
    values = [0.0] * 5000
    values[1234] = 9.0
    kept = thinned(range(5000), values)
    assert len(kept) <= 410 and (1234.0, 9.0) in kept and kept[0] == (0.0, 0.0) and kept[-1] == (4999.0, 0.0)
    assert kept == sorted(kept)


def test_faint_series_share_the_colour_of_the_next_and_have_no_key():
    document = line_chart([Series("raw", [0, 1], [1, 2], faint=True), Series("mean", [0, 1], [1, 2])], label="l")
    assert document.count("var(--series-1)") == 3 and "var(--series-2)" not in document
    assert ">raw</text>" not in document and ">mean</text>" in document


def test_series_of_unequal_lengths_are_an_error():
    with pytest.raises(ValueError, match="2 x values and 1 y values"):
        Series("s", [0, 1], [0])


def test_heat_map_colours_from_chance():
    document = heat_map([[0.125, 1.0], [0.0, math.nan]], label="recall", chance=0.125)
    checked(document)
    cells = re.findall(r"fill=\"([^\"]*)\" fill-opacity=\"([\d.]+)\"><title>layer", document)
    assert cells[0] == ("var(--accent)", "0.000") and cells[1] == ("var(--accent)", "1.000")
    assert cells[2] == ("var(--below)", "0.600") and cells[3] == ("none", "0.000")
    assert "chance 0.125" in document and ">1.00</text>" in document
    checked(heat_map([[0.5]], label="plain"))
    with pytest.raises(ValueError, match="differ in length"):
        heat_map([[0.1], [0.1, 0.2]], label="x")
    with pytest.raises(ValueError, match="chance"):
        heat_map([[0.1]], label="x", chance=1.0)


def test_intervals():
    document = interval_chart(
        [Interval(HOSTILE, 0.5, 0.4, 0.6), Interval("b", 2.0, 1.5, 2.5, True)], label="l", references={"chance": 0.1}
    )
    checked(document)
    assert interval_chart([Interval("c", math.nan, 0.0, 1.0)], label="l").endswith("l: no rows</p>")
    assert ">chance</text>" in document and "0.500 [0.400, 0.600]" in document


def test_long_labels_of_intervals_are_whole():
    name = "dense-trained, 8 kept by the question (SnapKV-like)"
    document = interval_chart([Interval(name, 0.5, 0.4, 0.6)], label="l", width=500)
    end = float(re.search(rf'x="([\d.]+)"[^>]*>{re.escape(name)}<', document)[1])
    assert end >= 6.5 * len(name) and float(re.search(r' width="(\d+)"', document)[1]) > end + 200


def test_nothing_to_draw_is_said():
    for document in (line_chart([], label="a"), interval_chart([], label="a"), heat_map([], label="a")):
        assert document.startswith('<p class="quiet">a: no ')


def test_lines_named_at_their_ends_have_dots_and_no_key():
    x = [10, 100]
    lines = [Series("low", x, [1, 4]), Series("high", x, [1, 4.1]), Series("up", x, [1, 2], guide=True)]
    document = line_chart(lines, label="l", log_x=True, log_y=True, x_ticks=[10, 100], named_at_ends=True)
    checked(document)
    assert document.count("<circle") == 4 and document.count("stroke-dasharray") == 1, "a guide has no dots"
    names = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*style="fill:[^"]+"[^>]*>(\w+)</text>', document)
    places = {name: float(y) for _, y, name in names}
    assert places["low"] - places["high"] >= 15 and places["up"] > places["low"]


def test_a_logarithmic_axis_has_equal_steps_for_equal_ratios():
    document = line_chart([Series("s", [1, 10, 100], [1, 2, 3])], label="l", log_x=True)
    first, second, third = (float(x) for x in re.findall(r"[ML]([\d.]+),", document)[:3])
    assert second - first == pytest.approx(third - second, abs=0.11)


@given(st.lists(st.floats(0, 200), max_size=12).map(sorted))
def test_labels_are_moved_apart_and_stay_inside_while_they_fit(places):
    moved = spread(places, 15, 0, 200)
    assert all(b - a >= 15 - 1e-9 for a, b in zip(moved, moved[1:], strict=False))
    assert all(-1e-9 <= place <= 200 + 1e-9 for place in moved)

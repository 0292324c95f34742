import math
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cambrian_gaze.viz.charts import drawing
from cambrian_gaze.viz.charts.charts import (
    Axis,
    Interval,
    Series,
    interval_chart,
    interval_numbers,
    line_chart,
    line_numbers,
    round_ticks,
    spread,
    thinned,
)
from cambrian_gaze.viz.charts.heat_map import heat_map
from tests.viz.test_html import HOSTILE, checked

finite = st.floats(-1e12, 1e12, allow_nan=False).map(lambda value: round(value, 3))


def points(document: str, role: str = "series-1") -> list[tuple[float, float]]:
    """Corners of the first path of a colour; that of the key comes later."""
    path, *_ = re.findall(rf'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--{role}\)', document)
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)]


def places(document: str, which: str) -> dict[str, float]:
    """Written text → its x or y."""
    found = re.findall(rf'<text [^>]* {which}="([\d.-]+)"[^>]*>([^<]*)</text>', document)
    return {text: float(at) for at, text in found}


@given(low=finite, high=finite)
def test_ticks_are_few_and_inside(low, high):
    low, high = sorted((low, high))
    found = round_ticks(low, high)
    assert 1 <= len(found) <= 12
    assert all(low <= tick <= high for tick in found)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=60), st.booleans(), st.booleans())
def test_any_numbers_give_a_chart_without_broken_coordinates(values, step, log_y):
    document = line_chart([Series(HOSTILE, range(len(values)), values, step=step)], label=HOSTILE, y=Axis(log=log_y))
    checked(document)
    assert not re.search(r'[ "ML,](nan|inf)', document)


def test_points_lie_where_the_axes_say():
    document = line_chart([Series("s", [0, 1], [0, 10])], label="l", x=Axis(ticks=[0, 1]), y=Axis("up", 0, 10))
    (x0, y0), (x1, y1) = points(document)
    down, across = places(document, "y"), places(document, "x")
    assert y0 - down["0"] == pytest.approx(y1 - down["10"], abs=0.1) and y0 - y1 > 100
    assert x0 == pytest.approx(across["0"], abs=0.1) or x0 < across["1"]
    assert x1 == pytest.approx(across["1"], abs=0.1)


def test_a_logarithmic_axis_has_round_numbers():
    document = line_chart([Series("s", [0, 1], [0.04, 3.0])], label="l", y=Axis(log=True))
    assert {"0.05", "0.1", "0.2", "0.5", "1", "2"} <= set(places(document, "y"))
    assert 2 <= len(round_ticks(1e-9, 1e9, log=True)) <= 8


def test_stairs_and_gaps():
    x, y = Axis(), Axis(low=0, high=1)
    corners = points(line_chart([Series("s", [0, 1, 2], [0, 1, 1], step=True)], label="l", x=x, y=y))
    assert corners[0][1] == corners[1][1] and corners[1][0] == corners[2][0] and corners[2][1] == corners[-1][1]
    gap = line_chart([Series("s", [0, 1, 2, 3], [0, math.nan, 1, 1])], label="l", y=y)
    assert re.search(r'd="M [\d.]+ [\d.]+ M [\d.]+ [\d.]+ L [\d.]+ [\d.]+ "', gap), "the first point stands alone"


def test_long_series_are_thinned_without_losing_a_spike():
    values = [0.0] * 5000
    values[1234] = 9.0
    kept = thinned(range(5000), values)
    assert len(kept) <= 410 and (1234.0, 9.0) in kept and kept[0] == (0.0, 0.0) and kept[-1] == (4999.0, 0.0)
    assert kept == sorted(kept)


def test_a_chart_is_small_and_the_same_each_time():
    noise = [1 + 0.5 * math.sin(step * step) for step in range(100_000)]
    series = [Series(name, range(len(noise)), noise) for name in "abcdef"]
    first = line_chart(series, label="l")
    assert len(first) < 60_000 and first == line_chart(series, label="l")
    assert "metadata" not in first and "DejaVu" not in first and 'id="figure' not in first


def test_series_of_unequal_lengths_are_an_error():
    with pytest.raises(ValueError, match="2 x values and 1 y values"):
        Series("s", [0, 1], [0])


def test_names_are_shown_as_they_are():
    names = ["$x_1$", "_hidden", "a\x00b\nc", "<b>"]
    document = line_chart([Series(name, [0, 1], [1, 2]) for name in names], label="l")
    checked(document)
    shown = list(places(document, "x"))
    assert "$x_1$" in shown and "\u200b_hidden" in shown and "a b c" in shown and "&lt;b&gt;" in shown


def test_lines_of_the_same_points_and_many_lines_are_told_apart_by_dashes():
    same = line_chart([Series("a", [0, 1], [1, 2]), Series("b", [0, 1], [1, 2])], label="l")
    many = line_chart([Series(name, [0, 1], [n, n + 1]) for n, name in enumerate("abcd")], label="l")
    for document, dashed in ((same, "series-2"), (many, "series-4")):
        assert set(re.findall(r"stroke: var\(--([\w-]+)\); stroke-dasharray", document)) == {dashed}


def test_charts_on_one_page_share_no_names():
    documents = [line_chart([Series("s", [0, 1], [1, 2])], label=label, y=Axis(low=0)) for label in "ab"]
    checked("".join(documents))
    assert "clip-path" in documents[0]


def test_intervals():
    document = interval_chart(
        [Interval(HOSTILE, 0.5, 0.4, 0.6), Interval("b", 2.0, 1.5, 2.5, True)], label="l", references={"chance": 0.1}
    )
    checked(document)
    assert interval_chart([Interval("c", math.nan, 0.0, 1.0)], label="l").endswith("l: no rows</p>")
    assert ">chance</text>" in document and ">0.500</text>" in document
    (left, _), (right, _) = points(interval_chart([Interval("a", 0.5, 0.4, 0.6)], label="l"), "series-6")
    ends = places(interval_chart([Interval("a", 0.5, 0.4, 0.6)], label="l"), "x")
    assert left == pytest.approx(ends["0.4"], abs=0.1) and right == pytest.approx(ends["0.6"], abs=0.1)


def test_long_labels_of_intervals_are_whole():
    name = "dense-trained, 8 kept by the question (SnapKV-like), and still more words than most charts have"
    document = interval_chart([Interval(name, 0.5, 0.4, 0.6)], label="l")
    across = places(document, "x")
    assert across["0.500"] - 40 > across[name] + 6.5 * len(name)


def test_nothing_to_draw_is_said():
    for document in (line_chart([], label="a"), interval_chart([], label="a"), heat_map([], label="a")):
        assert document.startswith('<p class="quiet">a: no ')


def test_lines_named_at_their_ends_have_dots_and_no_key():
    x = [10, 100]
    lines = [Series("low", x, [1, 4]), Series("high", x, [1, 4.1]), Series("up", x, [1, 2], guide=True)]
    axes = {"x": Axis(log=True, ticks=[10, 100]), "y": Axis(log=True)}
    document = line_chart(lines, label="l", **axes, named_at_ends=True)
    checked(document)
    assert document.count("<use") == 4 and document.count("stroke-dasharray") == 1, "a guide has no dots"
    names = places(document, "y")
    assert names["low"] - names["high"] >= 14.9 and names["up"] > names["low"]


def test_a_logarithmic_axis_has_equal_steps_for_equal_ratios():
    document = line_chart([Series("s", [1, 10, 100], [1, 2, 3.5])], label="l", x=Axis(log=True))
    (first, _), (second, _), (third, _) = points(document)
    assert second - first == pytest.approx(third - second, abs=0.11)


@given(st.lists(st.floats(0, 200), max_size=12).map(sorted))
def test_labels_are_moved_apart_and_stay_inside_while_they_fit(places):
    moved = spread(places, 15, 0, 200)
    assert all(b - a >= 15 - 1e-9 for a, b in zip(moved, moved[1:], strict=False))
    assert all(-1e-9 <= place <= 200 + 1e-9 for place in moved)


def test_tables_hold_the_numbers_of_charts():
    table = line_numbers([Series("a", range(1, 101), range(1, 101)), Series("b", [50], [7.0])], "step")
    assert [column.name for column in table.columns] == ["step", "a", "b"] and len(table.rows) == 12
    assert table.rows[0] == [1, 1, None] and table.rows[-1] == [100, 100, 7.0] and "12 of 100" in table.note
    assert line_numbers([Series("a", [1, 2], [3, math.nan])], "x").rows == [[1, 3], [2, 3]]
    assert interval_numbers([Interval("r", 0.5, 0.4, 0.6, True)], "accuracy").rows == [["r", 0.5, 0.4, 0.6]]


def test_without_matplotlib_the_remedy_is_named():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from cambrian_gaze.viz.charts.charts import Series, line_chart\n"
        "from cambrian_gaze.viz.charts.drawing import available\n"
        "assert not available()\n"
        "line_chart([Series('s', [0, 1], [1, 2])], label='l')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1 and "pip install 'cambrian-gaze[charts]'" in result.stderr


def test_neither_pyplot_nor_settings_of_others_are_touched():
    code = (
        "import sys, matplotlib\n"
        "matplotlib.rcParams['font.size'] = 31\n"
        "from cambrian_gaze.viz.charts.charts import Series, line_chart\n"
        "document = line_chart([Series('s', [0, 1], [1, 2])], label='l')\n"
        "assert 'matplotlib.pyplot' not in sys.modules and matplotlib.rcParams['font.size'] == 31\n"
        "assert 'font-size: 12px' in document and '31px' not in document"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_colour_of_the_page_is_one_of_its_variables():
    from cambrian_gaze.viz.style import STYLE

    document = line_chart([Series(str(n), [0, 1], [n, n]) for n in range(6)], label="l")
    document += interval_chart([Interval("b", 0.5, 0.4, 0.6, True)], label="l", references={"chance": 0.1})
    document += heat_map([[0.1]], label="l", chance=0.5)
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)[:2]
    for look in (light, dark):
        assert set(re.findall(r"var\(--([\w-]+)\)", document)) <= set(re.findall(r"--([\w-]+):", look))
    assert not re.search(r"#01fe", document) and set(drawing.SERIES) <= set(re.findall(r"--([\w-]+)\)", document))

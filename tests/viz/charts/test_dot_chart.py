import re

import pytest

from cambrian_gaze.viz.charts.charts import Axis, Series, line_chart
from cambrian_gaze.viz.charts.dot_chart import Dots, Mark, bar_chart, dot_chart
from cambrian_gaze.viz.charts.picture import picture
from tests.viz.test_html import HOSTILE, checked

MARKS = {"a": Mark("blue"), "b": Mark("red", hollow=True, square=True)}
SIDES = ("slower", "faster")


def dots(document: str) -> list[tuple[float, float, str]]:
    """Place and look of every dot, those of the key last."""
    return [
        (float(x), float(y), style)
        for x, y, style in re.findall(r'<use href="#[\w-]+" x="([\d.]+)" y="([\d.]+)" style="([^"]*)"', document)
    ]


def test_a_ratio_of_one_lies_on_the_line_and_the_others_on_their_sides():
    rows = [Dots(HOSTILE, {"a": 1.0}), Dots("y", {"a": 4.0}), Dots("z", {"a": 0.25})]
    document = dot_chart(rows, {"a": Mark("blue")}, label=HOSTILE, sides=SIDES)
    checked(document)
    (line,) = re.findall(r'<path d="M ([\d.]+) [\d.]+ L [^"]*"[^>]*stroke: var\(--text\)', document)
    one, more, less = (x for x, _, _ in dots(document)[:3])
    assert one == float(line) and more - one == pytest.approx(one - less, abs=0.11)
    assert "← slower" in document and "faster →" in document


def test_marks_differ_in_more_than_colour_and_do_not_hide_each_other():
    document = dot_chart([Dots("x", {"a": 2.0, "b": 2.0})], MARKS, label="l", sides=SIDES)
    (x1, y1, filled), (x2, y2, hollow) = dots(document)[:2]
    assert x1 == x2 and y2 - y1 == pytest.approx(3, abs=0.5)
    assert "fill: #0000ff" in filled and "fill: var(--surface)" in hollow
    assert document.count("C ") > 4 and len(set(re.findall(r'href="(#[\w-]+)"', document))) == 2, (
        "a circle and a square"
    )


def test_bars_are_as_long_as_their_values():
    bars = [("all", 0.8, "blue"), ("half", 0.4, "red"), ("none", 0.0, "red")]
    document = bar_chart(bars, label="l", form="{:.0%}".format)
    ends = re.findall(r'd="M ([\d.]+) [\d.]+ L ([\d.]+) [^"]*"[^>]*style="fill: #(?:0000ff|ff0000)"', document)
    widths = [float(right) - float(left) for left, right in ends]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2) and 0.5 < widths[2] < 2
    assert ">80%<" in document and ">0%<" in document


def test_a_picture_stands_by_itself_in_light_and_dark():
    chart = line_chart([Series("s", [1, 2], [1, 2], stroke="first")], label="l", y=Axis(low=0))
    document = picture(chart, HOSTILE, "note")
    checked(document)
    assert document.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "prefers-color-scheme: dark" in document and document.endswith("</svg>\n")
    dots = picture(dot_chart([Dots("x", {"a": 2.0, "b": 3.0})], MARKS, label="l", sides=SIDES), "t", "n")
    named = set(re.findall(r"var\(--([\w-]+)\)", dots + document))
    light, dark = re.findall(r":root \{(.*?)\}", document, re.DOTALL)[:2]
    for look in (light, dark):
        assert named <= set(re.findall(r"--([\w-]+):", look))


def test_nothing_to_draw_is_an_error_of_the_picture():
    empty = dot_chart([], {}, label="l", sides=SIDES)
    assert "no values" in empty and "no values" in bar_chart([], label="l")
    with pytest.raises(ValueError, match="'t' has nothing to draw"):
        picture(empty, "t", "n")

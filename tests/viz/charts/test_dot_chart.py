import re

import pytest

from cambrian_gaze.viz.charts.charts import Series, line_chart
from cambrian_gaze.viz.charts.dot_chart import Dots, Mark, bar_chart, dot_chart
from cambrian_gaze.viz.charts.picture import picture
from tests.viz.test_html import HOSTILE, checked

MARKS = {"a": Mark("blue"), "b": Mark("red", hollow=True, square=True)}
SIDES = ("slower", "faster")


def test_a_ratio_of_one_lies_on_the_line_and_the_others_on_their_sides():
    rows = [Dots(HOSTILE, {"a": 1.0}), Dots("y", {"a": 4.0}), Dots("z", {"a": 0.25})]
    document = dot_chart(rows, {"a": Mark("blue")}, label=HOSTILE, sides=SIDES)
    checked(document)
    (line,) = re.findall(r'<line x1="([\d.]+)"[^>]*stroke="var\(--text\)"', document)
    one, more, less = (float(x) for x in re.findall(r'cx="([\d.]+)" cy="[\d.]+" r="4.5"', document)[1:])
    assert one == float(line) and more - one == pytest.approx(one - less, abs=0.11)
    assert "← slower" in document and "faster →" in document


def test_marks_differ_in_more_than_colour_and_do_not_hide_each_other():
    document = dot_chart([Dots("x", {"a": 2.0, "b": 2.0})], MARKS, label="l", sides=SIDES)
    (circle,) = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"[^>]*><title>', document)
    (square,) = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)"[^>]*fill="var\(--surface\)"><title>', document)
    assert float(circle[0]) == float(square[0]) + 4 and float(square[1]) + 4 - float(circle[1]) == 3


def test_bars_are_as_long_as_their_values():
    bars = [("all", 0.8, "blue"), ("half", 0.4, "red"), ("none", 0.0, "red")]
    document = bar_chart(bars, label="l", form="{:.0%}".format)
    widths = [float(width) for width in re.findall(r'<rect x="\d+" y="\d+" width="([\d.]+)"', document)]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2) and widths[2] == 1.5
    assert ">80%<" in document and ">0%<" in document


def test_a_picture_stands_by_itself_in_light_and_dark():
    chart = line_chart([Series("s", [1, 2], [1, 2])], label="l")
    document = picture(chart, HOSTILE, "note")
    checked(document)
    assert document.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "prefers-color-scheme: dark" in document and document.endswith("</svg>\n")
    dots = picture(dot_chart([Dots("x", {"a": 2.0, "b": 3.0})], MARKS, label="l", sides=SIDES), "t", "n")
    named = set(re.findall(r"var\(--([\w-]+)\)", dots))
    light, dark = re.findall(r":root \{(.*?)\}", document, re.DOTALL)[:2]
    for look in (light, dark):
        assert named <= set(re.findall(r"--([\w-]+):", look))


def test_nothing_to_draw_is_an_error_of_the_picture():
    empty = dot_chart([], {}, label="l", sides=SIDES)
    assert "no values" in empty and "no values" in bar_chart([], label="l")
    with pytest.raises(ValueError, match="'t' has nothing to draw"):
        picture(empty, "t", "n")

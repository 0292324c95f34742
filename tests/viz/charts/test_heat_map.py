import math
import re

import pytest

from cambrian_gaze.viz.charts.heat_map import heat_map, heat_numbers
from tests.viz.test_html import checked


def test_heat_map_colours_from_chance():
    document = heat_map([[0.125, 1.0], [0.0, math.nan]], label="recall", chance=0.125)
    checked(document)
    cells = re.findall(r"var\(--soft\)\"/></g><g>(?:<path [^>]*style=\"([^\"]*)\"/>)?", document)
    assert len(cells) == 4 and cells[1] == "fill: var(--accent)"
    assert cells[0].endswith("opacity: 0") and cells[2] == "fill: var(--below); opacity: 0.6"
    assert "var(--" not in cells[3]
    assert "chance 0.125" in document and ">1.00</text>" in document
    checked(heat_map([[0.5]], label="plain"))
    with pytest.raises(ValueError, match="differ in length"):
        heat_map([[0.1], [0.1, 0.2]], label="x")
    with pytest.raises(ValueError, match="chance"):
        heat_map([[0.1]], label="x", chance=1.0)


def test_many_cells_have_no_numbers():
    few, many = (heat_map([[0.5] * columns] * 2, label="l") for columns in (16, 17))
    assert few.count(">0.50<") == 32 and ">0.50<" not in many


def test_the_table_holds_the_cells():
    assert heat_numbers([[0.1, math.nan]]).rows == [[0, 0.1, None]]

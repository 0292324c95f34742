import numpy as np
import pytest

from cambrian_gaze.viz.charts.histograms import Histogram, draw_histograms


def test_bars_are_as_high_as_their_counts():
    panels = [Histogram("a", [0, 10, 20, 30], [4, 0, 2], "x", marks={"limit": 25, "outside": 99})] * 3
    paper = draw_histograms(panels, "title", "subtitle")
    blue = np.all(np.asarray(paper) == (37, 99, 235), axis=-1)
    columns = blue[: paper.height // 2, : paper.width // 2].sum(axis=0)
    first, second = columns[columns > 0][0], columns[columns > 0][-1]
    assert abs(first / second - 2) < 0.05 and (np.flatnonzero(columns)[1:] - np.flatnonzero(columns)[:-1]).max() > 100
    assert paper.height > paper.width * 0.4


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="histogram 'a': 2 edges for 2 bars"):
        Histogram("a", [0, 1], [1, 2])
    with pytest.raises(ValueError, match="no histogram to draw"):
        draw_histograms([], "title")

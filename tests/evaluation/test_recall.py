"""Routing recall, counted by hand."""

import pytest

from cambrian_gaze.evaluation.recall import RoutingRecall


def test_hits_per_layer_and_head():
    recall = RoutingRecall()
    recall.add([[[0, 1], [2, 3]], [[4, -1], [5, 6]]], wanted=1)
    recall.add([[[0, 1], [2, 3]], [[4, -1], [5, 6]]], wanted=5)
    recall.add([[[7, 1], [2, 5]], [[4, -1], [5, 6]]], wanted=5)
    assert recall.pairs == 3
    assert recall.table == [[1 / 3, 1 / 3], [0, 2 / 3]]
    assert recall.best == (1, 1, 2 / 3)


def test_nothing_counted():
    with pytest.raises(ValueError, match="no pairs"):
        _ = RoutingRecall().table

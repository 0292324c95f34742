"""Did the heads look where the next word is read from?"""

import pytest

from cambrian_gaze.studies.routing.recall import routing_recall
from tests.studies.routing._answers import Words, answer, record


def test_shares_of_heads_by_the_query_that_predicts_the_word():
    asked = record(("Hop", []), ("B3x", [4]), ("7", [2]), ("8", [1, 2]))
    # [tokens][layers][heads][K]: one layer, two heads
    regions = [[[[9], [9]]], [[[4], [9]]], [[[9], [9]]], [[[2], [2]]], [[[1], [1]]], [[[0], [0]]]]
    found = routing_recall([asked], [answer(["Hop", "B3", "-x", "7", "8", "<end>"], regions)], Words())
    assert found.pop("chance") == {
        "head": pytest.approx(0.1), "layer": pytest.approx([0.19]), "model": pytest.approx(0.19),
    }  # fmt: skip
    assert found == {
        "words": 2, "any_head": 1.0, "mean_head": 0.75, "best_head": 1.0, "any_in_layer": [1.0], "table": [[1.0, 0.5]],
    }  # fmt: skip


def test_chance_counts_what_was_chosen():
    asked = record(("Row", []), ("1", [0]))
    # two layers of two heads: 1, 2, 2 and 0 of 10 regions
    regions = [[[[1, 2], [1, 2]]] * 2, [[[0, -1], [1, 2]], [[0, 3], [-1, -1]]]]
    found = routing_recall([asked], [answer(["Row", "1"], regions)], Words())
    assert found["table"] == [[1.0, 0.0], [1.0, 0.0]] and found["any_in_layer"] == [1.0, 1.0]
    assert found["chance"]["head"] == pytest.approx(0.5 / 4)
    assert found["chance"]["layer"] == pytest.approx([1 - 0.9 * 0.8, 1 - 0.8])
    assert found["chance"]["model"] == pytest.approx(1 - 0.9 * 0.8 * 0.8)


def test_wrong_answers_and_words_of_several_regions_say_nothing():
    wrong = answer(["Hop", "B4"], [[[[0]]]] * 2)
    assert routing_recall([record(("Hop", []), ("B3", [4]))], [wrong], Words()) == {"words": 0}
    count = answer(["Count", "3"], [[[[0]]]] * 2)
    assert routing_recall([record(("Count", []), ("3", range(10)))], [count], Words()) == {"words": 0}

"""Attention mass of a study's answers, by layer."""

import pytest

from cambrian_gaze.studies.routing.mass import NAMES, attention_mass
from tests.studies.routing._answers import Words, answer, record


def test_by_hand():
    asked = record(("Hop", []), ("B3", [4]))
    right = answer(["Hop", "B3"], [])
    right["mass"] = {name: [[[0.0, 1.0], [2.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]]] for name in NAMES}
    wrong = answer(["Hop"], [])
    wrong["mass"] = {name: [[[1.0, 1.0], [1.0, 1.0]]] for name in NAMES}
    found = attention_mass([asked, asked], [right, wrong], Words())
    assert found["all"]["steps"] == 3 and found["read"]["steps"] == 1
    assert found["all"]["inside"] == pytest.approx([(0.5 + 3.5 + 1) / 3, (2 + 5.5 + 1) / 3])
    assert found["read"]["most_seen"] == [3.5, 5.5]


def test_nothing_right():
    wrong = answer(["Hop"], [])
    wrong["mass"] = {name: [[[1.0]]] for name in NAMES}
    assert attention_mass([record(("Hop", []), ("B3", [4]))], [wrong], Words())["read"] == {"steps": 0}

"""What becomes of the values around the one whose region is hidden."""

import pytest

from cambrian_gaze.studies.routing.counterfactual import SPANS, around, share_around, steered_arms
from cambrian_gaze.studies.routing.tables import hidden_table

RIGHT = {"gaze": ["1111", "1110", "0000"], "hidden": ["1001", "0110", "1111"]}
PLACES = [1, 0, None]


def results(**arms):
    common = {"model": "one", "gaze": {"top_k": 2}, "policy": {}, "blind": False, "masked": False, "steer": None}
    listed = [
        {**common, "name": "dense", "title": "dense", "model": "two", "gaze": {}},
        {**common, "name": "free", "title": "free", "gaze": {"top_k": 4}},
        {**common, "name": "gaze", "title": "gaze"},
        {**common, "name": "hidden", "title": "one hidden", "steer": "hide_needed"} | arms,
    ]
    seed = {"arms": {one["name"]: {"right": {"hop": RIGHT.get(one["name"], RIGHT["gaze"])}} for one in listed}}
    seed["arms"]["hidden"]["places"] = {"hop": PLACES}
    return {"arms": listed, "seeds": {"0": seed, "1": seed}}


def test_by_hand():
    raw = results()
    found = {arm: [around(raw, arm, "hidden", "hop", span) for span in SPANS.values()] for arm in ("hidden", "gaze")}
    # Values 1 of the first question and 0 of the second; before: one of the first; after: two and three.
    assert [one.value for one in found["hidden"]] == [0.0, 1.0, pytest.approx(3 / 5)]
    assert [one.n for one in found["hidden"]] == [4, 2, 10]
    assert [one.value for one in found["gaze"]] == [1.0, 1.0, pytest.approx(4 / 5)]
    offsets = [around(raw, "hidden", "hidden", "hop", (n, n)) for n in range(-2, 5)]
    assert [one and one.value for one in offsets] == [None, 1.0, 0.0, 0.5, 1.0, 0.0, None]
    shares = [share_around(raw, "hidden", "hidden", "hop", n) for n in range(-2, 5)]
    assert shares == pytest.approx([float("nan"), 1.0, 0.0, 0.5, 1.0, 0.0, float("nan")], nan_ok=True)


def test_beside_the_arm_that_hides_nothing():
    assert list(steered_arms(results())) == [("hop", "gaze", ["hidden"])]
    assert list(steered_arms(results(gaze={"top_k": 16}))) == [("hop", "free", ["hidden"])]
    with pytest.raises(ValueError, match="hidden has no arm of model three"):
        list(steered_arms(results(model="three")))
    table = hidden_table(results())
    assert "| hop | one hidden | 0.000 [0.000, 0.000] | 1.000 [1.000, 1.000] | 0.600 [" in table


def test_no_counterfactual_no_table():
    raw = results(steer=None)
    assert hidden_table(raw) == "" and list(steered_arms(raw)) == []

"""Short answers."""

import pytest

from cambrian_gaze.evaluation.scorers import exact


@pytest.mark.parametrize(
    ("answer", "gold", "cambrian", "official"),
    [("Red.", "red", 1, 1), ("red!", "red", 0, 1), ("t-shirt", "t shirt", 0, 0), ("dark red", "red", 0, 0),
     ("", "red", 0, 0), ("red\n", "red", 1, 1)],
)  # fmt: skip
def test_gqa(answer: str, gold: str, cambrian: float, official: float) -> None:
    assert exact.cambrian_exact(answer, {"answer": gold}) == cambrian
    assert exact.official_exact(answer, {"answer": gold}) == official


@pytest.mark.parametrize(
    ("answer", "cambrian", "official"),
    [("Yes", 1, 1), ("yes.", 1, 1), ("Yes, it is", 0, 1), ("No", 0, 0), ("No, yes", 0, 0), ("I say yes", 0, None),
     ("y", 0, 1), ("Y.", 0, 1), ("n", 0, 0), ("ye", 0, None), ("...yes", 0, 1), ("", 0, None)],
)  # fmt: skip
def test_mme(answer: str, cambrian: float, official: float | None) -> None:
    """Official: `parse_pred_ans` of lmms-eval 0.7.3."""
    assert exact.cambrian_exact(answer, {"answer": "Yes"}) == cambrian
    assert exact.official_yes_no(answer, {"answer": "Yes"}) == official


@pytest.mark.parametrize(
    ("answer", "gold", "formula", "right"),
    [("It says CENTRE.", ["centre"], False, 1), ("cen tre", ["centre"], False, 0), ("12", ["$12", "12"], False, 1),
     ("two\nlines", ["two lines"], False, 1), ("x^{2}", ["x ^ { 2 }"], True, 1), ("X^{2}", ["x ^ { 2 }"], True, 0),
     ("", ["a"], False, 0), ("anything", [""], False, 0)],
)  # fmt: skip
def test_ocrbench(answer: str, gold: list[str], formula: bool, right: float) -> None:
    assert exact.gold_inside(answer, {"answer": gold, "formula": formula}) == right

"""MathVista: the whole output, or what can be extracted from it."""

from typing import Any

import pytest

from cambrian_gaze.evaluation.scorers import mathvista


def target(answer: str, kind: str = "text", options: dict[str, str] | None = None, precision: Any = None) -> dict:
    return {"answer": answer, "type": kind, "options": options or {}, "precision": precision}


CHOICE = target("B", options={"A": "8 cm", "B": "10 cm", "C": "isosceles"})


@pytest.mark.parametrize(
    ("answer", "cambrian", "official"),
    [
        ("B", 1, 1),
        ("b", 1, None),
        ("10 cm", 0, 1),
        ("The sides are equal, so the answer is (B).", 0, 1),
        ("(A) is too short, hence (B)", 0, 1),
        ("B.", 0, 1),
        ("isoceles", 0, 0),
        ("nothing like it at all", 0, None),
        ("", 0, None),
    ],
)
def test_choices(answer: str, cambrian: float, official: float | None) -> None:
    assert mathvista.cambrian_mathvista(answer, CHOICE) == cambrian
    assert mathvista.official_mathvista(answer, CHOICE) == official


@pytest.mark.parametrize(
    ("answer", "truth", "cambrian", "official"),
    [
        ("5", target("5", "integer"), 1, 1),
        ("5.2", target("5", "integer"), 1, 1),
        ("There are 2 and 3, so 5.", target("5", "integer"), 0, 1),
        ("1,200", target("1200", "integer"), 0, 1),
        ("1.52", target("1.5", "float", precision=1.0), 1, 1),
        ("1.56", target("1.5", "float", precision=1.0), 1, 0),
        ("It is [1, 2]", target("[1,2]", "list"), 0, 1),
        ("none", target("5", "integer"), 0, None),
    ],
)
def test_free_form(answer: str, truth: dict, cambrian: float, official: float | None) -> None:
    assert mathvista.cambrian_mathvista(answer, truth) == cambrian
    assert mathvista.official_mathvista(answer, truth) == official

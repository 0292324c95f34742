"""VQA accuracy and its normaliser."""

import pytest

from cambrian_gaze.evaluation.scorers import vqa


@pytest.mark.parametrize(
    ("text", "normal"),
    [("The Coca-Cola.", "coca cola"), ("two", "2"), ("A", ""), ("1,000", "1000"), ("3.", "3"), ("2.5", "2.5"),
     ("dont", "don't"), ("What?", "what"), ("a / b", "b"), ("None", "0"), ("line\none", "line 1"), ("Joe's", "joe 's")],
)  # fmt: skip
def test_normaliser(text: str, normal: str) -> None:
    assert vqa.normalise(text) == normal


def leave_one_out(answer: str, answers: list[str]) -> float:
    """The definition, annotator by annotator."""
    normal = [vqa.normalise(gold) for gold in answers]
    total = 0.0
    for place in range(len(normal)):
        others = normal[:place] + normal[place + 1 :]
        total += min(1.0, others.count(vqa.normalise(answer)) / 3)
    return total / len(normal)


@pytest.mark.parametrize("same", range(11))
def test_accuracy_is_the_mean_over_annotators(same: int) -> None:
    answers = ["nokia"] * same + [f"other {n}" for n in range(10 - same)]
    assert vqa.vqa_accuracy("Nokia.", answers) == pytest.approx(leave_one_out("Nokia.", answers))


def test_known_values() -> None:
    assert [vqa.vqa_accuracy("x", ["x"] * n + ["y"] * (10 - n)) for n in (0, 1, 2, 3, 4, 10)] == pytest.approx(
        [0.0, 0.3, 0.6, 0.9, 1.0, 1.0]
    )
    assert vqa.textvqa("  ", {"answer": ["a"] * 10}) == 0.0

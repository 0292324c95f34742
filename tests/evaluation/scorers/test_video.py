"""Video benchmarks: letters and numbers."""

import pytest

from cambrian_gaze.evaluation.scorers import video

B = {"answer": "B", "options": {"A": "one", "B": "two", "C": "three", "D": "four"}}
NUMBER = {"answer": "10", "options": {}}


@pytest.mark.parametrize(
    ("answer", "first", "lone", "named"),
    [
        ("B", 1, 1, 1),
        ("(B) two", 1, 1, 1),
        ("The best answer is: B", 1, 1, 1),
        ("Answer: C", 0, 0, 0),
        ("two", None, None, 1),
        ("Bananas", None, None, None),
        ("", None, None, None),
        ("E", None, None, None),
    ],
)
def test_letters(answer: str, first: float | None, lone: float | None, named: float | None) -> None:
    assert video.first_letter(answer, B) == first
    assert video.lone_letter(answer, B) == lone
    assert video.named_option(answer, B) == named


@pytest.mark.parametrize(
    ("answer", "target", "expected"),
    [
        ("B. two", B, 1),
        ("b", B, 1),
        ("It is B", B, 0),
        ("9 chairs", NUMBER, 0.9),
        ("14", NUMBER, 0.3),
        ("5.", NUMBER, 0.1),
        ("nine", NUMBER, 0.9),
        ("", NUMBER, None),
    ],
)
def test_vsi(answer: str, target: dict, expected: float | None) -> None:
    assert video.vsi(answer, target) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("score", [video.first_letter, video.lone_letter, video.named_option])
def test_without_options_nothing_can_be_decided(score) -> None:
    """MLVU's options stand in its question; where none could be read there, the answer is undecided."""
    assert score("A", {"answer": "A", "options": {}}) is None


def test_a_truth_that_is_no_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="no number"):
        video.vsi("3", {"answer": "many", "options": {}})

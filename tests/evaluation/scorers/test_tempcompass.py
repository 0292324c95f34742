"""TempCompass by the rules of lmms-eval 0.7.3, `tasks/tempcompass/utils.py`; what a judge would decide is undecided."""

import pytest

from cambrian_gaze.evaluation.scorers import tempcompass

CHOICE = {"task": "multi-choice", "answer": "B. running", "question": "What?\nA. sitting\nB. running"}
YES = {"task": "yes_no", "answer": "yes", "question": "Is he running?"}
LINES = "Which?\nCaption A: He sits: still.\nCaption B: He runs.\nOption 3: He lies."
CAPTION = {"task": "caption_matching", "answer": "Caption B: He runs.", "question": LINES}
THIRD = CAPTION | {"answer": "Option 3: He lies."}


@pytest.mark.parametrize(
    ("target", "answer", "expected"),
    [
        (CHOICE, "B. running", 1), (CHOICE, "B", 1), (CHOICE, "B) it is", 1), (CHOICE, "A", 0), (CHOICE, "C.", 0),
        (CHOICE, "running", None), (CHOICE, "(B)", None), (CHOICE, "The answer is B", None), (CHOICE, "E", None),
        (YES, "Yes, he is", 1), (YES, "no", 0), (YES, "nothing", 0), (YES, "He is", None),
        (CAPTION, "Caption B: He runs.", 1), (CAPTION, "He runs.", 1), (CAPTION, "Caption B", 1), (CAPTION, "B.", 1),
        (CAPTION, "(B) He runs.", 1), (CAPTION, "A", 0), (CAPTION, "He sits", 0), (CAPTION, "still.", None),
        (CAPTION, "the second", None), (THIRD, "3", 1), (THIRD, "Option 3.", 1),
    ],
)  # fmt: skip
def test_rules(target: dict, answer: str, expected: float | None) -> None:
    assert tempcompass.by_rule(answer, target) == expected


@pytest.mark.parametrize(("answer", "expected"), [("He is running.", 1), ("He sits", None), ("sitting", 0)])
def test_a_caption_counts_where_it_names_one_option(answer: str, expected: float | None) -> None:
    target = {"answer": "B. running", "letter": "B", "options": {"A": "sitting", "B": "running"}}
    assert tempcompass.captioning(answer, target) == expected

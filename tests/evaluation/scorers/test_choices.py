"""Multiple choice, by the parent's rules with their quirks and by the benchmarks' own."""

import pytest

from cambrian_gaze.evaluation.scorers import choices

OPTIONS = {"A": "a red boat", "B": "a green tree", "C": "snow"}
B = {"answer": "B", "options": OPTIONS}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("(B) dog", "b"),
        ("answer: (D)", "d"),
        ("I think B", "i"),
        ("The answer is: C.", ":"),
        ("The answer is C", "c"),
        ("B.", "b"),
        ("  b  ", "b"),
        ("Answer: A. Answer: B", "b"),
        ("", ""),
        ("...", ""),
    ],
)
def test_mcq1(answer: str, letter: str) -> None:
    assert choices.mcq1(answer) == letter


@pytest.mark.parametrize(
    ("answer", "right"),
    [("B", 1), ("(b)", 1), ("a green tree", 1), ("A green tree.", 1), ("B. a green tree", 0), ("A", 0), ("", 0)],
)
def test_letter_or_text(answer: str, right: float) -> None:
    assert choices.cambrian_letter_or_text(answer, B) == right


@pytest.mark.parametrize(
    ("answer", "right"), [("B", 1), ("B. 绿树", 1), ("b:", 1), ("(B)", 0), ("答案是 B", 0), ("", 0), ("  ", 0)]
)
def test_first_token(answer: str, right: float) -> None:
    assert choices.cambrian_first_token(answer, B) == right


@pytest.mark.parametrize(
    ("answer", "cambrian", "official"),
    [
        ("B", 1, 1),
        ("B. a green tree", 1, 1),
        ("a green tree", 1, 0),
        ("A green, tree!", 1, 0),
        ("B) x", 0, 0),
        ("The answer is B.", 1, 0),
        ("Bad", 0, 0),
        ("B.", 1, 1),
        ("B.a green tree", 1, 1),
        ("b", 1, 1),
        ("b.", 1, 0),
        ("", 0, 0),
    ],
)
def test_science(answer: str, cambrian: float, official: float) -> None:
    """Parent: `scienceqa_test.py`; official: `sqa_process_results` of lmms-eval 0.7.3."""
    assert choices.cambrian_science(answer, B) == cambrian
    assert choices.official_science(answer, B) == official


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("The answer is B.", "B"),
        ("a green tree", "B"),
        ("It is a green tree.", "B"),
        ("A", "A"),
        ("It shows a thing, A, of sorts", None),
        ("A or B", None),
        ("a red boat beside a green tree", None),
        ("something else", None),
        ("snow " * 30, None),
    ],
)
def test_one_option_or_none(answer: str, letter: str | None) -> None:
    assert choices.option_letter(answer, OPTIONS) == letter


def test_undecided_is_not_wrong_by_itself() -> None:
    assert choices.official_option("something else", B) is None
    assert choices.official_option("A", B) == 0.0


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("A", "A", 1),
        ("a. It turns left", "A", 0),
        ("a because", "A", 1),
        ("Yes.", "Yes", 1),
        ("The answer is 3.", "3", 1),
        ("3 cars", "3", 1),
        ("", "3", 0),
        (".", "3", 0),
    ],
)
def test_first_word(answer: str, gold: str, right: float) -> None:
    assert choices.cambrian_word(answer, {"answer": gold, "options": {}}) == right


def test_official_word_uses_options_where_there_are_some() -> None:
    assert choices.official_word("It is a green tree", B) == 1.0
    assert choices.official_word("yes.", {"answer": "Yes", "options": {}}) == 1.0
    assert choices.official_word("yes it is", {"answer": "Yes", "options": {}}) == 0.0


def test_options_are_read_from_a_question() -> None:
    assert choices.options_in("Which?\nA. Left\nB. Right now\nPlease answer.") == {"A": "Left", "B": "Right now"}
    assert choices.options_in("How many?\n(A) 1\n(B) 2") == {"A": "1", "B": "2"}
    assert choices.options_in("Mr. X saw B. C. Doe") == {}

"""Scorers of lmms-eval 0.7.3 for video benchmarks, quirks kept. Where it draws an option at random, the answer is
undecided here: None.

A target holds `answer` (a letter, or a number as text) and `options` by letter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cambrian_gaze.evaluation.scorers.numbers import first_number, mean_relative_accuracy, number

Target = Mapping[str, Any]

FOUR, FIVE = tuple("ABCD"), tuple("ABCDE")
CHOICE_FORMS = ((6, "({})"), (5, "{}."), (4, "{}:"), (3, "{})"), (2, "{} "))
"""How an option is named inside an answer, and how much it weighs."""
CHOICE_PHRASES = tuple(
    f"{start}{kind} is"
    for kind, starts in (
        ("answer", ("the ", "", "the correct ", "correct ", "the best ", "best ", "my ")),
        ("option", ("the correct ", "correct ", "the best ", "best ")),
        ("choice", ("the ", "", "the correct ", "correct ", "my ")),
    )
    for start in starts
) + ("i choose", "i select", "i pick", "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは")
START, END, AFTER_PHRASE, ANYWHERE = 10, 9, 7, 0
PREFIXES = (
    *(f"The {kind}" for kind in ("best answer is", "correct answer is", "answer is", "answer")),
    *("The best option is", "The correct option is", "Best answer:", "Best option:"),
)
"""What LongVideoBench takes out of an answer, in this order and spelling."""


def extracted_letter(answer: str, target: Target) -> float | None:
    """`extract_letter` is the right one (Video-MME, MLVU)."""
    return _judged(extract_letter(answer, FOUR), target)


def extract_letter(answer: str, letters: Iterable[str]) -> str | None:
    """The letter that an answer names in the weightiest way, of equals the last (`_task_utils/mcq_extract.py`)."""
    bare = _stripped(answer.strip(), ",.!?;:'\"")
    text = f" {bare} "
    found: list[tuple[int, int, str]] = []
    for letter in letters:
        found += [(rank, text.rfind(form.format(letter)), letter) for rank, form in CHOICE_FORMS]
        for phrase in CHOICE_PHRASES:
            start = text.lower().find(phrase)
            if start >= 0:
                found.append((AFTER_PHRASE, text.find(letter, start + len(phrase)), letter))
        core = bare.strip()
        if core.startswith(letter) and not core[1:2].isalpha():
            found.append((START, 0, letter))
        if core.endswith(letter) and not core[-2:-1].isalpha():
            found.append((END, len(text), letter))
    found = [one for one in found if one[1] >= 0] or [(ANYWHERE, text.rfind(letter), letter) for letter in letters]
    best = max(found, key=lambda one: one[:2])
    return best[2] if best[1] >= 0 else None


def longvideobench(answer: str, target: Target) -> float | None:
    """The first of A to E, wherever it stands, prefixes gone."""
    text = answer.strip()
    for prefix in PREFIXES:
        text = text.replace(prefix, "")
    found = re.search("[ABCDE]", text)
    return _judged(found and found[0], target)


def egoschema(answer: str, target: Target) -> float | None:
    """The option named first, as "(B)", "B " or "B."; in a longer answer without any of these, by its text."""
    text = f" {_stripped(answer)} "
    named = [form.format(letter) for form in ("({})", "{} ", "{}.") for letter in FIVE if form.format(letter) in text]
    if named:
        return _judged(min(named, key=text.rfind).strip("(). "), target)
    told = {letter: f"{letter}. {option}" for letter, option in target["options"].items()}
    return _judged(_by_text(text, told, min), target)


def nextqa(answer: str, target: Target) -> float | None:
    """The option named last: as "(B)", else "B ", else "B."; in a longer answer without these, by its text."""
    text = f" {_stripped(answer)} "
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        named = [letter for letter in target["options"] if form.format(letter) in text]
        if named:
            return _judged(max(named, key=lambda letter, place=place: text.rfind(place.format(letter))), target)
    return _judged(_by_text(text, target["options"], max), target)


def mvbench(answer: str, target: Target) -> float | None:
    """ "B." at the start, else the first letter from A to E that stands alone, of any case: the article "a" too."""
    text = answer.strip()
    start = re.match(r"([A-E])\.\s*.+$", text, re.IGNORECASE)
    found = start or re.search(r"\b([A-E])\b", _without_marks(re.sub(r"[\n\t]", " ", text)).lower(), re.IGNORECASE)
    return _judged(found and found[1].upper(), target)


def vsibench(answer: str, target: Target) -> float | None:
    """Multiple choice: what stands before the first blank is the letter. Numbers: mean relative accuracy of the first
    number, in figures or words."""
    if target["options"]:
        return float(answer.split(" ")[0].rstrip(".").strip().lower() == target["answer"].lower())
    given, truth = first_number(answer), number(target["answer"])
    if truth is None:
        raise ValueError(f"the truth of a numeric question is {target['answer']!r}, which is no number")
    return None if given is None else mean_relative_accuracy(given, truth)


def _stripped(text: str, marks: str = ",.!?;:'") -> str:
    """Each mark in turn gone from both ends."""
    for mark in marks:
        text = text.strip(mark)
    return text


def _by_text(text: str, options: Mapping[str, str], first: Callable[..., str]) -> str | None:
    """Of the options whose text stands in an answer of more than five words the first or last; None for none."""
    if len(text.split()) <= 5:
        return None
    low = text.lower()
    told = [letter for letter, option in options.items() if option.lower() in low]
    return first(told, key=lambda letter: low.rfind(options[letter].lower())) if told else None


def _without_marks(text: str) -> str:
    """Marks beside a blank gone, others a blank; full stops gone unless a digit follows."""
    glued, out = re.search(r"\d,\d", text), text
    for mark in ';/[]"{}()=+\\_-><@`,?!':
        out = out.replace(mark, "" if glued or f"{mark} " in text or f" {mark}" in text else " ")
    return re.sub(r"\.(?!\d)", "", out)


def _judged(letter: str | None, target: Target) -> float | None:
    return None if letter is None else float(letter == target["answer"])

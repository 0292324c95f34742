"""Scorers of multiple choice. A target holds `answer` (the letter, upper case) and `options` (letter → text).

`mcq1` and what begins with `cambrian_` follow the rules of the parent's evaluation, quirks kept; what begins with
`official_` follows the benchmark's own.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from typing import Any

Target = Mapping[str, Any]

PREFIXES = ("answer is", "answer is:", "answer:")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))


def after_prefixes(text: str) -> str:
    """Lower case, and for each of PREFIXES that occurs only what follows its last occurrence."""
    text = text.lower().strip()
    for prefix in PREFIXES:
        if prefix in text:
            text = text.split(prefix)[-1]
    return text.strip()


def bare_choice(text: str) -> str:
    """What remains of an answer when prefixes, brackets and final punctuation are gone."""
    return after_prefixes(text).rstrip(".:,").lstrip("(").rstrip(")")


def mcq1(text: str) -> str:
    """First character of `bare_choice`; "" where nothing remains. "I think B" gives "i": so does the protocol."""
    return bare_choice(text)[:1]


def cambrian_letter(answer: str, target: Target) -> float:
    """`mcq1` is the letter."""
    return float(mcq1(answer) == target["answer"].lower())


def cambrian_letter_or_text(answer: str, target: Target) -> float:
    """The bare answer is the letter, or the text of the right option (MMVP)."""
    bare = bare_choice(answer)
    return float(bare in (target["answer"].lower(), target["options"][target["answer"]].lower()))


def cambrian_first_token(answer: str, target: Target) -> float:
    """The first token is the letter (MMBench-CN)."""
    tokens = answer.lower().split()
    return float(bool(tokens) and tokens[0].rstrip(".:,") == target["answer"].lower())


def cambrian_science(answer: str, target: Target) -> float:
    """What stands before the first full stop is the letter, or the whole is the option's text (ScienceQA)."""
    text = after_prefixes(answer).rstrip(".")
    if text.split(".")[0] == target["answer"].lower():
        return 1.0
    truth = target["options"][target["answer"]]
    return float(text != "" and _plain(text) == _plain(truth))


def official_science(answer: str, target: Target) -> float:
    """Only "X" in either case, or "X." and whatever follows (ScienceQA)."""
    text = answer.strip()
    return float(text.upper() == target["answer"] or text[:2] == f"{target['answer']}.")


def option_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """The one option that an answer names, by its letter or else by its text; None where it names none or several.

    A letter counts where it stands alone between separators. A lone "A" in a longer sentence is taken for the article.
    A text counts where it is the only option's text in an answer that is not much longer than all options together.
    """
    words = answer.translate(_SEPARATORS).split()
    named = {letter for letter in options if letter in words}
    if named == {"A"} and len(words) > 3 and "A" in options and words.index("A") not in (0, len(words) - 1):
        named = set()
    if len(named) == 1:
        return named.pop()
    text = answer.lower()
    if named or len(text) > 2 * sum(len(option) for option in options.values()):
        return None
    told = [letter for letter, option in options.items() if option and option.lower() in text]
    return told[0] if len(told) == 1 else None


def official_option(answer: str, target: Target) -> float | None:
    """`option_letter` is the right one; None where the answer cannot be decided."""
    letter = option_letter(answer, target["options"])
    return None if letter is None else float(letter == target["answer"])


def _plain(text: str) -> str:
    return text.translate(_PUNCTUATION).lower().strip()


def cambrian_word(answer: str, target: Target) -> float:
    """The first word after prefixes, the answer's final full stops gone (RealWorldQA: letters, words, numbers)."""
    words = after_prefixes(answer).rstrip(".").split()
    return float(bool(words) and words[0] == target["answer"].lower())


def official_word(answer: str, target: Target) -> float | None:
    """The option where the question has options, else the whole answer, case and final full stop apart."""
    if target["options"]:
        return official_option(answer, target)
    return float(answer.strip().rstrip(".").lower() == target["answer"].lower())


_LETTER_LINE = re.compile(r"^\(?([A-Z])[.)]\s*(.+?)\s*$", re.MULTILINE)


def options_in(question: str) -> dict[str, str]:
    """Options that a question lists as lines "A. …" or "(A) …", by letter; only an unbroken run from A counts."""
    options: dict[str, str] = {}
    for letter, text in _LETTER_LINE.findall(question):
        if letter == chr(ord("A") + len(options)):
            options[letter] = text
    return options

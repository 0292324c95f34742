"""TempCompass by the rules of its own evaluation (lmms-eval 0.7.3, `tasks/tempcompass/utils.py`). What the rules cannot
tell, the benchmark asks a judge model; here it is undecided.

A target holds `task`, `answer` as the data has it ("B. dribbling", "yes", "Caption A: …") and the `question` with its
options.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cambrian_gaze.evaluation.scorers.choices import option_letter

Target = Mapping[str, Any]

_KINDS = ("Sentence ", "Option ", "Caption ")


def by_rule(answer: str, target: Target) -> float | None:
    """Right or wrong under the rule of the target's task; None where it does not tell."""
    return _RULES[target["task"]](answer.strip(), target)


def _multi_choice(answer: str, target: Target) -> float | None:
    """The whole option, a letter alone, or "B." or "B)" with whatever follows."""
    if answer == target["answer"]:
        return 1.0
    if answer[:1] in tuple("ABCD") and (len(answer) == 1 or answer[1] in ".)"):
        return float(answer[0] == target["answer"][0])
    return None


def _yes_no(answer: str, target: Target) -> float | None:
    said = next((word for word in ("yes", "no") if answer.lower().startswith(word)), None)
    return None if said is None else float(said == target["answer"])


def _caption_matching(answer: str, target: Target) -> float | None:
    """A line of options, its text, its name ("Caption A") or the letter or number in it; the last that fits counts."""
    lines = [line for line in target["question"].split("\n")[1:] if ": " in line]
    names = [line.split(": ")[0] for line in lines]
    texts = [line.split(": ")[1] for line in lines]
    given = {answer, answer.replace(".", "")}
    after = {answer, answer.split(") ")[1]} if ") " in answer else {answer}
    told = [line for line in lines if line == answer]
    told += [text for text in texts if text in after]
    told += [name for name in (*names, *map(_bare, names)) if name in given]
    if not told:
        return None
    name, text = (*target["answer"].split(": "), "")[:2]
    return float(told[-1] in (target["answer"], name, text, name.split()[-1]))


def _bare(name: str) -> str:
    for kind in _KINDS:
        name = name.replace(kind, "")
    return name


def captioning(answer: str, target: Target) -> float | None:
    """The one option of the multiple-choice question that a caption names; else None. The benchmark's own rule is a
    judge's, so this is a lower bound. The target holds `letter` and `options`."""
    letter = option_letter(answer, target["options"])
    return None if letter is None else float(letter == target["letter"])


_RULES = {"multi-choice": _multi_choice, "yes_no": _yes_no, "caption_matching": _caption_matching}

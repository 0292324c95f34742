"""VQA accuracy with the EvalAI answer normaliser (TextVQA; Goyal et al. 2017, appendix of the VQA v2 evaluation)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Target = Mapping[str, Any]

ARTICLES = frozenset({"a", "an", "the"})
NUMBER_WORDS = {
    word: str(value) for value, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`!'
_FULL_STOP = re.compile(r"\.(?!\d)")
_STEMS = (
    "aint arent cant couldve couldnt didnt doesnt dont hadnt hasnt havent hed hes howd howll hows Im Ive isnt itd itll "
    "mightnt mightve mustnt mustve neednt oclock oughtnt shant shouldve shouldnt somebodys somebodyd someoned "
    "someonell someones somethingd somethingll thats thered therere theres theyd theyll theyre theyve twas wasnt weve "
    "werent whatll whatre whats whatve whens whered wheres whereve whod wholl whos whove whyll whyre whys wont "
    "wouldve wouldnt yall youd youll youre youve"
).split()
_ENDINGS = ("ve", "ll", "re", "nt", "d", "s", "m")


def _contraction(stem: str) -> str:
    if stem in ("oclock", "twas", "yall"):
        return {"oclock": "o'clock", "twas": "'twas", "yall": "y'all"}[stem]
    ending = next(ending for ending in _ENDINGS if stem.endswith(ending))
    return stem[: -len(ending)] + ("n't" if ending == "nt" else f"'{ending}")


CONTRACTIONS = {stem.lower(): _contraction(stem) for stem in _STEMS}
"""Spelt without an apostrophe → with it."""


def normalise(text: str) -> str:
    """Lower case, punctuation dealt with, numbers as digits, articles gone: "The Coca-Cola." → "coca cola"."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").replace("\n", " ").replace("\t", " ")
    text = _punctuation(text.strip())
    words = [NUMBER_WORDS.get(word, word) for word in text.split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _punctuation(text: str) -> str:
    """A mark beside a blank goes, one inside a word becomes a blank; full stops go unless a digit follows."""
    out = text
    for mark in PUNCTUATION:
        lone = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if lone else " ")
    return _FULL_STOP.sub("", out)


def vqa_accuracy(answer: str, answers: Sequence[str]) -> float:
    """Mean over the annotators of min(1, others who gave this answer / 3)."""
    given = normalise(answer)
    same = Counter(normalise(gold) for gold in answers)[given]
    # Leaving one of the `same` out finds same - 1 others, leaving one of the rest out finds all of them.
    score = same * min(1.0, (same - 1) / 3) + (len(answers) - same) * min(1.0, same / 3)
    return score / len(answers)


def textvqa(answer: str, target: Target) -> float:
    """`vqa_accuracy` against the annotators' answers; an empty answer is wrong."""
    return vqa_accuracy(answer, target["answer"]) if answer.strip() else 0.0

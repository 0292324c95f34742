"""Scorers of short answers: yes or no, exact words, a gold text inside the answer."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

Target = Mapping[str, Any]

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def cambrian_exact(answer: str, target: Target) -> float:
    """Equal in lower case, final full stops gone (GQA, MME)."""
    return float(answer.strip().lower().rstrip(".") == target["answer"].lower())


def official_exact(answer: str, target: Target) -> float:
    """Equal in lower case, punctuation gone (GQA)."""
    given = answer.lower().translate(_PUNCTUATION).strip()
    return float(given != "" and given == target["answer"].lower().translate(_PUNCTUATION).strip())


def official_yes_no(answer: str, target: Target) -> float | None:
    """A lone "y" or "n", else "yes", or else "no", in the first four characters, full stops gone (MME); None where
    there is neither."""
    text = answer.strip().lower().replace(".", "")
    said = {"y": "yes", "n": "no"}.get(text) or next((word for word in ("yes", "no") if word in text[:4]), None)
    return None if said is None else float(said == target["answer"].lower())


def gold_inside(answer: str, target: Target) -> float:
    """One of the gold texts stands in the answer (OCRBench). Formulas (HME100k) keep their case and lose spaces.

    `target`: `answer` (list of texts) and `formula` (bool).
    """
    squeeze = _formula if target["formula"] else _line
    given = squeeze(answer)
    return float(any(squeeze(gold) in given for gold in target["answer"] if gold.strip()))


def _line(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


def _formula(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")

"""The file of a study's raw results: how it was asked once, and of each seed what came of it and on which machine.

Seeds may come from several runs, on several machines: each is added to those that are there, as long as the study is
the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cambrian_gaze.files import wait_for_lock, write_text

WORDS = ("title", "asks", "note", "command", "lines", "x_label")
"""What only the page is made of; the newest run's are kept."""


def read_results(path: str | os.PathLike) -> dict[str, Any]:
    """The raw results of a study, `right` as `answer_seed` returns it. Raises ValueError for another file."""
    values = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(values, dict) or "seeds" not in values or "against" not in values:
        raise ValueError(f"{path} holds no results of a study")
    for seed in values["seeds"].values():
        for arm in seed["arms"].values():
            arm["right"] = {family: text.split() for family, text in arm["right"].items()}
    return values


def earlier_seeds(path: Path, study: Mapping[str, Any]) -> dict[str, Any]:
    """The seeds that a file holds of this study; none where there is no file.

    Raises: ValueError where they were measured with other models, pages or arms.
    """
    if not path.exists():
        return {}
    there = read_results(path)
    if other := sorted(name for name, value in _compared(study).items() if _compared(there).get(name) != value):
        raise ValueError(
            f"{path} holds seeds of another {study['study']}: {', '.join(other)} differ. Move the file away, or write "
            "these with --results FOLDER"
        )
    return there["seeds"]


def add_seed(path: Path, study: Mapping[str, Any], seed: int, entry: Mapping[str, Any]) -> None:
    """Write a seed into the file, beside those that are there; another run may do the same at the same time.

    Raises: ValueError, as `earlier_seeds`.
    """
    with _alone(path.parent):
        seeds = earlier_seeds(path, study) | {str(seed): entry}
        ordered = {name: seeds[name] for name in sorted(seeds, key=int)}
        write_text(path, _written({**study, "seeds": ordered}))


def _compared(study: Mapping[str, Any]) -> dict[str, Any]:
    """What a seed's results depend on, as JSON types."""
    values = json.loads(json.dumps({name: value for name, value in study.items() if name not in (*WORDS, "seeds")}))
    values["arms"] = [
        {name: value for name, value in arm.items() if name not in ("title", "x")} for arm in study["arms"]
    ]
    return values


def _written(whole: Mapping[str, Any]) -> str:
    """JSON, the values of all questions of a family in one string."""
    copy = json.loads(json.dumps(whole))
    for seed in copy["seeds"].values():
        for arm in seed["arms"].values():
            arm["right"] = {family: " ".join(texts) for family, texts in arm["right"].items()}
    return json.dumps(copy, indent=1) + "\n"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, once another process has let it go."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        wait_for_lock(handle, folder)
        yield
    finally:
        os.close(handle)

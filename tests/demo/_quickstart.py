"""The quickstart's run whose model the demo is tested and pictured with."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from cambrian_gaze.demo.limits import Limits
from cambrian_gaze.demo.talk import Talker
from cambrian_gaze.quickstart.evaluate import MAX_NEW_TOKENS

ROOT = Path(__file__).parents[2]
RUN = ROOT / os.environ.get("CAMBRIAN_GAZE_QUICKSTART", "runs/quickstart")
"""`CAMBRIAN_GAZE_QUICKSTART` names another folder, such as that of a smoke run."""
MODEL = RUN / "gaze"
MISSING = f"no quickstart's model in {MODEL} (./scripts/quickstart.sh)"


@cache
def has_learned() -> bool:
    """Whether it is a full run: a smoke run's model cannot read."""
    results = RUN / "results.json"
    return results.is_file() and not json.loads(results.read_text())["smoke"]


def quickstart_talker() -> Talker:
    """The gaze model, under the name by which the documentation calls it. Answers are as long as in the quickstart: a
    smoke run's model does not know where to end."""
    from cambrian_gaze.cli.loading import load

    model, processor = load(str(MODEL), "cpu")
    return Talker(model, processor, "runs/quickstart/gaze", Limits(max_new_tokens=MAX_NEW_TOKENS))


def read_row() -> dict[str, Any]:
    """The first held-out question that names cells, with `picture`, `prompt`, and `truth`: cell → digit."""
    rows = map(json.loads, (RUN / "data" / "heldout.jsonl").read_text().splitlines())
    row = next(row for row in rows if row["family"] == "read")
    return row | {
        "picture": RUN / "data" / "images" / row["image"],
        "prompt": row["conversations"][0]["value"].removeprefix("<image>\n"),
        "truth": {cell: str(digit) for cell, digit in row["target"]},
    }


def read(words: str) -> dict[str, str]:
    """ "Read C4 3 B1 5 …" as cell → digit."""
    parts = words.split("<")[0].split()[1:]
    return dict(zip(parts[::2], parts[1::2], strict=False))

"""What a plan takes the data to be: how many samples there are, and what one of them holds."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from cambrian_gaze.data.records.records import read_records
from cambrian_gaze.training.config.arguments import DataArguments


@dataclass(frozen=True)
class Workload:
    """A data set in means. Lengths are assumptions, and said to be: measure yours and pass them."""

    samples: int | None
    """Records of one epoch; None where nothing says."""

    visual_share: float
    """Samples that hold an image or a video; the others are text."""

    text_tokens: int
    """Text of a sample, question and answer and what the chat format adds."""

    supervised_tokens: int
    """Of these, the answers."""

    source: str
    """Where the numbers come from."""

    video: bool = False
    """Whether what they hold are videos."""


KNOWN = {
    "cambrian_align": Workload(2_513_164, 1.0, 100, 70, "upstream's row count; lengths assumed"),
    "cambrian_7m": Workload(7_000_000, 0.8, 300, 200, "the name's 7M; share and lengths assumed"),
    "cambrian_s_20pct": Workload(562_195, 1.0, 200, 100, "20 % of 2,810,976 usable rows; lengths assumed", True),
}
"""The recipes of the paper's runs, by file name. Videos are taken to fill `video_max_frames`, the most there can be."""

UNKNOWN = Workload(None, 1.0, 200, 100, "assumed")
"""Share and lengths where the data are not of `KNOWN`."""


def workload(args: DataArguments, **changes: float | None) -> Workload:
    """The means of `data_path`: of the recipes known here, or rows as counted in files that exist; `changes` that are
    not None replace fields.

    Raises: ValueError where several recipes of different means are mixed, or a file cannot be read.
    """
    paths = [Path(path) for path in args.data_path or []]
    known = [KNOWN[path.stem] for path in paths if path.stem in KNOWN]
    if len(known) == 1 == len(paths):
        found = known[0]
    elif known:
        raise ValueError("a plan takes one of the known recipes at a time; give its data_path, or --samples and others")
    elif paths and all(path.suffix in (".json", ".jsonl") and path.is_file() for path in paths):
        rows = sum(len(read_records(path)) for path in paths)
        found = dataclasses.replace(UNKNOWN, samples=rows, source="rows counted; share and lengths assumed")
    else:
        found = UNKNOWN
    given = {name: value for name, value in changes.items() if value is not None}
    if given:
        found = dataclasses.replace(found, **given, source=f"{found.source}; {', '.join(given)} given")
    if found.supervised_tokens > found.text_tokens:
        raise ValueError(f"{found.supervised_tokens} supervised tokens of {found.text_tokens} text tokens")
    return found

"""The quickstart's held-out pages as records for routing accuracy: each cell is a mask, and known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from cambrian_gaze.data.media.image_files import image_size
from cambrian_gaze.evaluation.routing.records import Phrase, RoutingRecord
from cambrian_gaze.quickstart.task import ADDRESSES, COLUMNS, ROWS


def read_pages(folder: str | Path) -> Iterator[RoutingRecord]:
    """One record per read question of the held-out pages: the caption is the right answer ("Read B3 7 A1 4"), and each
    "B3 7" in it two phrases of one mask, its address and its value.

    Raises: ValueError where the folder is no quickstart's data.
    """
    folder = Path(folder)
    path = folder / "heldout.jsonl"
    if not path.is_file():
        raise ValueError(f"{path} is missing: give the data folder of a quickstart, such as runs/quickstart/data")
    with open(path, encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            if line["family"] == "read":
                yield _record(line, image_size(line["image"], folder / "images"))


def _record(line: dict, size_wh: tuple[int, int]) -> RoutingRecord:
    question, answer = (turn["value"] for turn in line["conversations"])
    phrases, place = [], 0
    for address, value in line["target"]:
        start = answer.index(f"{address} {value}", place)
        place = start + len(address) + 1
        mask = (cell_polygon(address, size_wh),)
        phrases.append(Phrase(address, mask, ((start, place - 1),), "address"))
        phrases.append(Phrase(str(value), mask, ((place, place + len(str(value))),), "value"))
    prompt = question.removeprefix("<image>").lstrip("\n")
    return RoutingRecord(line["id"], line["image"], tuple(phrases), answer, prompt)


def cell_polygon(address: str, size_wh: tuple[int, int]) -> list[float]:
    """The corners of a cell [x, y, …] in pixels of its page."""
    row, column = divmod(ADDRESSES.index(address), len(COLUMNS))
    x0, x1 = (size_wh[0] * n / len(COLUMNS) for n in (column, column + 1))
    y0, y1 = (size_wh[1] * n / len(ROWS) for n in (row, row + 1))
    return [x0, y0, x1, y0, x1, y1, x0, y1]

"""A folder as `cambrian-gaze reproduce --preset tiny --data` takes it."""

import json
import shutil
from pathlib import Path

from tests.evaluation._data_root import write_data_root
from tests.training._runs import write_data


def write_folder(root: Path, benchmarks: bool = True) -> Path:
    """Records of every run, their pictures and a clip, and copies of all benchmarks."""
    records = write_data(root / "images", list("iiititii"))
    shutil.copy(records, root / "align.jsonl")
    records.rename(root / "finetune.jsonl")
    (root / "videos" / "clip").mkdir(parents=True)
    for number in range(3):
        picture = f"{(0, 1, 2)[number]}.png"
        shutil.copy(root / "images" / picture, root / "videos" / "clip" / picture)
    turns = [{"from": "human", "value": "<video>\nRead B3"}, {"from": "gpt", "value": "B3 7"}]
    clips = [{"id": str(number), "video": "clip", "conversations": turns} for number in range(6)]
    (root / "video.jsonl").write_text("".join(json.dumps(clip) + "\n" for clip in clips))
    if benchmarks:
        write_data_root(root / "benchmarks")
    return root

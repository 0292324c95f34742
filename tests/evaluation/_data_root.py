"""Local copies of all benchmarks on disk, as `hf download` would leave them, of the rows in `_fixtures`."""

from __future__ import annotations

from pathlib import Path

import pytest

from cambrian_gaze.evaluation.benchmarks.video_extra import MVBENCH_FOLDERS
from cambrian_gaze.gazebench.make import DATASET, make
from cambrian_gaze.gazebench.spec import GazeBenchSpec
from tests.evaluation._fixtures import TABLES, png

VIDEOS = {
    "lmms-lab/Video-MME": ["data/v0.mp4", "data/v1.mp4"],
    "lmms-lab/egoschema": [f"videos/v{n}.mp4" for n in range(3)],
    "longvideobench/LongVideoBench": [f"videos/v{n}.mp4" for n in range(3)],
    "lmms-lab/PerceptionTest_Val": [f"videos/v{n}.mp4" for n in range(3)],
    "nyu-visionx/VSI-Bench": [f"scannet/v{n}.mp4" for n in range(4)],
    "sy1998/MLVU_dev": [f"v{n}.mp4" for n in range(3)],
    "lmms-eval/NExTQA": [f"NExTVideo/{10 + n}.mp4" for n in range(3)],
    "lmms-eval/TempCompass": [f"videos/v{n}.mp4" for n in range(3)],
    "OpenGVLab/MVBench": sorted({f"{folder}/v0.mp4" for folder in MVBENCH_FOLDERS.values()}),
}
"""Videos are folders of frames here: what is read does not depend on a decoder."""
GAZEBENCH = GazeBenchSpec(
    glyph=8, wording="terse", hops=3, reads=2, length=3, frames=2, questions=2, validation=1, test=4, train=6
)


def write_data_root(root: Path) -> Path:
    """Local copies of all benchmarks below `root`."""
    import datasets

    for (dataset, config, split), rows in TABLES.items():
        folder = root / dataset / (config or "data")
        folder.mkdir(parents=True, exist_ok=True)
        table = datasets.Dataset.from_list(rows)
        for name in table.column_names:
            if any(isinstance(row[name], dict) and "bytes" in row[name] for row in rows):
                table = table.cast_column(name, datasets.Image())
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    for dataset in {dataset for dataset, _, _ in TABLES}:
        _write_card(root / dataset, [key for key in TABLES if key[0] == dataset])
    _write_mmvp(root / "MMVP" / "MMVP")
    (root / DATASET).parent.mkdir()
    make(root / DATASET, GAZEBENCH, progress=False)
    for dataset, videos in VIDEOS.items():
        for video in videos:
            (root / dataset / video).mkdir(parents=True)
            for number in range(2):
                (root / dataset / video / f"{number}.png").write_bytes(png()["bytes"])
    return root


def own_data_root(factory: pytest.TempPathFactory) -> Path:
    """`write_data_root` in a folder of its own; what `datasets` caches of it goes there too."""
    import datasets

    folder = factory.mktemp("benchmarks")
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    return write_data_root(folder / "data")


def _write_card(folder: Path, keys: list[tuple[str, str | None, str]]) -> None:
    lines = ["---", "configs:"]
    for _, config, split in keys:
        lines += [f"- config_name: {config or 'default'}", "  data_files:", f"  - split: {split}"]
        lines += [f"    path: {config or 'data'}/{split}-*.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def _write_mmvp(folder: Path) -> None:
    (folder / "MMVP Images").mkdir(parents=True)
    lines = ["Index,Question,Options,Correct Answer"]
    for index, answer in ((1, "(a)"), (2, "(a)"), (3, "(a)"), (4, "(b)"), (99, "(a)"), (100, "(b)")):
        lines.append(f"{index},Is the door open?,(a) Open (b) Shut,{answer}")
        (folder / "MMVP Images" / f"{index}.jpg").write_bytes(png()["bytes"])
    (folder / "Questions.csv").write_text("\n".join(lines) + "\n")

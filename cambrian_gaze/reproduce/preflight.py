"""What a row needs before anything starts: data of every run, benchmarks, room on the disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from cambrian_gaze.data.mixture.recipe import recipe_of
from cambrian_gaze.data.mixture.recipe_file import RecipeError
from cambrian_gaze.reproduce.commands import Options, Step
from cambrian_gaze.reproduce.rows import Chain
from cambrian_gaze.training.config.config import gather

WEIGHT_BYTES = 2
OPTIMIZER_BYTES = 12
"""Of each trained parameter in a checkpoint: the master copy and AdamW's two moments in fp32."""


def missing_data(todo: Sequence[Step], chain: Chain, options: Options) -> list[str]:
    """What the steps that are left would not find, each with the step that needs it. Content is not read: that is
    `cambrian-gaze data check` and `cambrian-gaze eval doctor`."""
    missing: list[str] = []
    for step in todo:
        if step.run is not None:
            missing += [f"{step.name}: {text}" for text in _of_run(step)]
        elif step.name == "evaluation":
            missing += [f"evaluation: {text}" for text in _of_benchmarks(chain, options)]
    return missing


def _of_run(step: Step) -> list[str]:
    values, _ = gather(step.words[1:])
    paths = values.get("data_path", [])
    paths = [paths] if isinstance(paths, str) else paths
    folders = values.get("image_folder"), values.get("video_folder")
    try:
        sources = recipe_of(paths, *folders).sources
    except (RecipeError, OSError) as error:
        return [str(error)]
    missing = [f"{source.path} ({source.origin})" for source in sources if source.is_missing()]
    own = {
        (kind, getattr(source, f"{kind}_folder") or given)
        for source in sources
        for kind, given in zip(("image", "video"), folders, strict=True)
        if not source.streaming
    }
    for kind, folder in sorted((kind, folder) for kind, folder in own if folder is not None):
        # A recipe of videos alone needs no folder of images, though all configurations name one.
        if (kind == "video") == (step.name == "video") and not _holds_anything(Path(folder)):
            missing.append(f"{folder} ({kind}s)")
    return missing


def _of_benchmarks(chain: Chain, options: Options) -> list[str]:
    root = options.benchmarks
    if root is None:
        remedy = "videos are read from local copies: give --data_root (eval/README.md lists them)"
        return [remedy] if chain.is_video else []
    # A dataset that has moved may lie under any of its names.
    wanted = dict.fromkeys(tuple(p.dataset for p in benchmark.source.places) for benchmark in chain.table.benchmarks)
    return [
        f"{root / names[0]} (benchmark)" for names in wanted if not any(_holds_anything(root / name) for name in names)
    ]


def _holds_anything(folder: Path) -> bool:
    return folder.is_dir() and next(folder.iterdir(), None) is not None


def disk_needed(todo: Sequence[Step], plan: Path) -> int:
    """Bytes that the training runs among `todo` will write at most: their checkpoints, one more while it is written,
    and their models; by the parameters in the JSON of `cambrian-gaze plan`."""
    needed = 0
    plans = {Path(one["config"]).name: one for one in json.loads(plan.read_text(encoding="utf-8"))}
    for step in todo:
        if step.run is None:
            continue
        parts = plans[step.run.config.name]["parameters"].values()
        every, trained = (sum(part[which] for part in parts) for which in (0, 1))
        kept = 1 + int(gather(step.words[1:])[0].get("save_total_limit") or 1)
        model = WEIGHT_BYTES * every
        needed += model + kept * (model + OPTIMIZER_BYTES * trained)
    return needed


def check_disk(needed: int, work: Path) -> None:
    """Raises: ValueError where the disk of `work` has less room."""
    place = work.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ValueError(
            f"checkpoints and models of this row take up to {needed / 1e9:,.0f} GB, and {place} has "
            f"{free / 1e9:,.0f} GB free; give --work a folder on a larger disk, or lower save_total_limit"
        )

"""The command of every step of a row, and what of the row's sizes becomes of them with the tiny preset."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cambrian_gaze.reproduce.rows import Chain, Run
from cambrian_gaze.training.config.flags import added_up, read_flags

DATA_FILES = {"stage1": "align.jsonl", "stage2": "finetune.jsonl", "video": "video.jsonl"}
"""Records of each run in the folder that `--data` names; pictures lie in `images`, videos in `videos` beside them, and
benchmarks in `benchmarks`."""

TINY_GRID = 8
"""Rows and columns of visual tokens of the tiny preset."""
TINY_FRAMES = 4
"""Frames that stand for the 64 or 128 of a row."""

_TINY = ["--preset", "tiny", "--vision_tower", "null", "--deepspeed", "null", "--no_bf16"]
_TINY += ["--no_gradient_checkpointing", "--save_steps", "2", "--logging_steps", "1", "--dataloader_num_workers", "0"]
_TINY += ["--per_device_train_batch_size", "2", "--global_batch_size", "4", "--max_steps", "6", "--max_length", "1024"]
_TINY += ["--no_dataloader_persistent_workers", "--disable_tqdm"]


@dataclass(frozen=True)
class Options:
    """How a row is reproduced."""

    work: Path = Path()
    """Where checkpoints/ and runs/eval/ are written."""
    gpus: int = 1
    """Ranks of training and processes of evaluation on this machine; under SLURM, of one machine."""
    nodes: int = 1
    """Machines of a training job under SLURM."""
    gpu: str = "h100"
    data_root: Path | None = None
    """Local copies of the benchmarks; None: the hub and its cache."""
    data: Path | None = None
    """Records, pictures, videos and benchmarks in place of the recipes'."""
    preset: str | None = None
    """"tiny": the row's chain with a tiny model, in minutes."""
    protocol: str = "both"
    flags: tuple[str, ...] = ()
    """For every training run: keys of `cambrian-gaze train`."""

    @property
    def benchmarks(self) -> Path | None:
        return self.data / "benchmarks" if self.data_root is None and self.data is not None else self.data_root


@dataclass(frozen=True)
class Step:
    """One command, as `cambrian-gaze` takes it."""

    name: str
    words: tuple[str, ...]
    output: Path
    run: Run | None = field(default=None, compare=False)
    """The training run; None: evaluation or table."""


def plan_words(chain: Chain, options: Options, json: Path | None = None) -> list[str]:
    """The command that says what the row's training will take."""
    configs = [str(run.config) for run in chain.runs]
    words = ["plan", *configs, "--gpus", str(options.gpus * options.nodes), "--gpu", options.gpu]
    if options.preset == "tiny":
        # One set of flags for all of them: sizes of the tiny model, whichever its regions.
        words += ["--preset", "tiny", "--vision_tower", "null", "--deepspeed", "null", "--max_steps", "6"]
        words += ["--per_device_train_batch_size", "2", "--global_batch_size", str(4 * options.gpus * options.nodes)]
    words += options.flags
    return words + ([] if json is None else ["--json", str(json)])


def steps(chain: Chain, options: Options) -> list[Step]:
    """The training runs of a row, its evaluation and its table, in order."""
    found = [_training(run, before, options) for run, before in zip(chain.runs, (None, *chain.runs), strict=False)]
    output = options.work / "runs" / "eval" / chain.row.slug
    table = ["eval", "table", str(chain.table_path), "--row", chain.row.name, "--output", str(output)]
    table += ["--protocol", options.protocol]
    for plugin in added_up([], read_flags(options.flags).get("plugin")) or ():
        table += ["--plugin", plugin]
    answers = ["--model", str(found[-1].output), "--num_processes", str(options.gpus)]
    if options.benchmarks is not None:
        answers += ["--data_root", str(options.benchmarks)]
    if chain.is_video and "video_max_frames" not in chain.row.frame_options():
        answers += ["--video_max_frames", str(frames_of(chain.runs[-1].values, options))]
    if options.preset == "tiny":
        answers += ["--max_new_tokens", "4", "--batch_size", "8"]
    found.append(Step("evaluation", (*table, *answers), output))
    found.append(Step("table", tuple(table), output))
    return found


def frames_of(values: dict[str, Any], options: Options) -> int:
    """Most frames of a video that a run's model sees."""
    frames = int(values.get("video_max_frames", 1))
    return max(1, TINY_FRAMES * frames // max(frames, 64)) if options.preset == "tiny" else frames


def _training(run: Run, before: Run | None, options: Options) -> Step:
    words = ["train", str(run.config)]
    output = options.work / run.output
    if options.gpus > 1:
        words += ["--nproc_per_node", str(options.gpus)]
    if options.preset == "tiny":
        words += [*_TINY, *_tiny_gaze(run, options)]
        if run.name != "video":
            words += ["--model_name_or_path", "null"]
    if options.work != Path():
        words += ["--output_dir", str(output)]
        if before is not None and run.name == "video":
            words += ["--model_name_or_path", str(options.work / before.output)]
        elif before is not None:
            words += ["--pretrain_mm_mlp_adapter", str(options.work / before.output / "mm_projector.safetensors")]
    if options.data is not None:
        words += ["--data_path", str(options.data / DATA_FILES[run.name])]
        words += ["--image_folder", str(options.data / "images")]
        if run.name == "video":
            words += ["--video_folder", str(options.data / "videos")]
    return Step(run.name, (*words, *options.flags), output, run)


def _tiny_gaze(run: Run, options: Options) -> list[str]:
    """Regions and budgets that are of the tiny grid what the row's are of its own: as many regions, as many kept."""
    values = run.values
    grid = 32 if "512" in str(values["preset"]) else 24
    grid, tiny = (grid // 2, TINY_GRID // 2) if "mlp2x_gelu" != values["mm_projector_type"] else (grid, TINY_GRID)
    words: list[str] = []
    for prefix in ("", "video_"):
        size = values.get(f"{prefix}region_size")
        if size is None:
            continue
        smaller = [size[0], *(max(1, side * tiny // grid) for side in size[1:])]
        words += [f"--{prefix}region_size", *map(str, smaller)]
        if (budget := values.get(f"{prefix}kv_budget")) is not None:
            kept = budget // (size[0] * size[1] * size[2])
            words += [f"--{prefix}kv_budget", str(max(1, kept) * smaller[0] * smaller[1] * smaller[2])]
    if (frames := values.get("video_max_frames")) is not None:
        fewer = frames_of(values, options)
        words += ["--video_max_frames", str(fewer)]
        if (kept := values.get("video_top_k")) is not None:
            words += ["--video_top_k", str(max(1, kept * fewer // frames))]
    return words

"""From which checkpoint a run goes on, and in which form: the first rank decides, and all ranks hear it.

DeepSpeed splits the optimizer's state over the ranks, so its files fit only as many ranks and the same ZeRO stage. For
others they are converted into DeepSpeed's universal form, by parameter. That form lies in a folder of its own that
looks like the checkpoint (links to its files), and is gone once it is loaded: the checkpoint itself is never touched.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from cambrian_gaze.extras import require
from cambrian_gaze.training.checkpoint.checkpoint import (
    checkpoint_steps,
    incomplete_because,
    last_complete_checkpoint,
    read_marker,
)
from cambrian_gaze.training.checkpoint.continuation import check_continues
from cambrian_gaze.training.checkpoint.pickles import check_checkpoint
from cambrian_gaze.training.config.arguments import TrainingArguments
from cambrian_gaze.training.config.config import RunConfig

logger = logging.getLogger(__name__)

VIEW = ".resuming"
"""In `output_dir`: the checkpoint in universal form."""
UNIVERSAL = "universal"
_LATEST = "latest_universal"
_PATIENCE = datetime.timedelta(hours=2)
"""How long the ranks wait for the first one, which reads and may convert all of a checkpoint."""

T = TypeVar("T")


class FirstRankFailed(ValueError):
    """Raised on the other ranks where the first one, which says why, cannot decide."""


def first_rank_decides(decide: Callable[[], T], rank: int = 0) -> T:
    """What `decide` returns on the first rank, or another, on all of them; if it fails there, `FirstRankFailed` on the
    others."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return decide()
    # A group of its own, on the CPU: reading takes longer than a collective of the training may.
    group = dist.new_group(backend="gloo", timeout=_PATIENCE)
    answer: list[Any] = [None, None]
    failure: Exception | None = None
    if dist.get_rank() == rank:
        try:
            answer[0] = decide()
        except Exception as error:  # Whatever it is, the others must not wait for hours.
            failure, answer[1] = error, f"{f'rank {rank}' if rank else 'the first rank'} failed: {error!r}"
    dist.broadcast_object_list(answer, src=rank, group=group)
    dist.destroy_process_group(group)
    if failure is not None:
        raise failure
    if answer[1] is not None:
        raise FirstRankFailed(answer[1])
    return answer[0]


def lowest_able_rank_decides(decide: Callable[[], T], able: bool, device: torch.device) -> T | None:
    """What `decide` returns on the lowest rank that is able to, on all of them; None, after one small collective on
    `device`, where none is."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return decide() if able else None
    ranks = dist.get_world_size()
    lowest = torch.tensor(dist.get_rank() if able else ranks, device=device)
    dist.all_reduce(lowest, op=dist.ReduceOp.MIN)
    return None if int(lowest) == ranks else first_rank_decides(decide, int(lowest))


def checkpoint_to_resume(run: RunConfig) -> str | None:
    """The folder that the run continues from: the checkpoint named, or with `auto_resume` the last complete one; or a
    view of it, where DeepSpeed's files were written by other ranks or another ZeRO stage.

    Raises: PickleError where loading it may run code; ValueError where the named one is not complete, this run cannot
    load its optimizer's state, its configuration would have no effect, or `output_dir` holds later ones than that from
    which it would begin.
    """
    args = run.training
    found = first_rank_decides(lambda: _loadable(run))
    if found is not None and is_universal(found):
        args.hf_deepspeed_config.config.setdefault("checkpoint", {})["load_universal"] = True
    return found


def is_universal(folder: Path | str) -> bool:
    """Whether `folder` holds DeepSpeed's universal form."""
    return (Path(folder) / _LATEST).is_file()


def drop_universal(folder: Path | str) -> None:
    """Delete the universal form from a view, once every rank has loaded it."""
    (Path(folder) / _LATEST).unlink(missing_ok=True)
    shutil.rmtree(Path(folder) / UNIVERSAL, ignore_errors=True)


def zero_stage(args: TrainingArguments) -> int | None:
    """DeepSpeed's ZeRO stage, None without DeepSpeed."""
    if not args.deepspeed:
        return None
    return int(args.hf_deepspeed_config.config.get("zero_optimization", {}).get("stage", 0))


def _loadable(run: RunConfig) -> str | None:
    args = run.training
    view = Path(args.output_dir) / VIEW
    shutil.rmtree(view, ignore_errors=True)
    asked = args.resume_from_checkpoint
    is_word = str(asked).lower() in ("true", "false")
    named = asked is not None and not is_word
    asks_for_the_last = str(asked).lower() == "true" if is_word else not named and args.auto_resume
    if named:
        folder = Path(args.resume_from_checkpoint)
        if reason := incomplete_because(folder, args.verify_checkpoint, states=True):
            raise ValueError(f"resume_from_checkpoint {folder} cannot be resumed from: {reason}")
    elif asks_for_the_last:
        folder, messages = last_complete_checkpoint(args.output_dir, args.verify_checkpoint, states=True)
        for message in messages:
            logger.warning(message)
        if folder is None and is_word:
            raise ValueError(
                f"resume_from_checkpoint {asked}: {args.output_dir} holds no complete checkpoint; leave it out to "
                "begin where there is none"
            )
    else:
        folder = None
    if not asks_for_the_last:
        _check_is_last(folder, args.output_dir)
    if folder is None:
        return None
    check_checkpoint(folder)
    for applied in check_continues(run, folder):
        logger.warning("from here on another value is in force: %s", applied)
    logger.warning("continuing from %s", folder)
    marker, stage, ranks = read_marker(folder), zero_stage(args), max(1, args.world_size)
    then = (marker.get("world_size", ranks), marker.get("zero_stage", stage))
    if then == (ranks, stage) or (then[1] is None and stage is None):
        return str(folder)
    if not {then[1], stage} <= {1, 2}:
        raise ValueError(
            f"{folder} was written by {_setup(*then)}, and this run has {_setup(ranks, stage)}: the state of the "
            "optimizer can be carried over between any numbers of ranks with ZeRO 1 or 2, or without DeepSpeed; "
            "start as it was written, or set auto_resume to false and choose another output_dir"
        )
    logger.warning("its optimizer state of %s is converted for %s", _setup(*then), _setup(ranks, stage))
    return str(_universal_view(folder, view))


def _check_is_last(folder: Path | None, output_dir: str) -> None:
    """Raises ValueError where `output_dir` holds a later checkpoint than the one that the run begins from: the next
    start would go on from that one, and `save_total_limit` would keep it in the place of new ones."""
    step = 0 if folder is None else read_marker(folder)["step"]
    later = [path for at, path in checkpoint_steps(output_dir) if at > step and incomplete_because(path) is None]
    if later:
        names = ", ".join(path.name for path in later)
        begin = "from the start" if folder is None else f"from {folder} (step {step})"
        raise ValueError(
            f"the run would begin {begin}, and {output_dir} holds later checkpoints: {names}. They would be taken for "
            f"its own when it is started again. Move them out of {output_dir}, or choose another output_dir; to go on "
            f"from {later[-1].name} leave out resume_from_checkpoint, and auto_resume: false"
        )


def _setup(ranks: int, stage: int | None) -> str:
    return f"{ranks} ranks " + ("without DeepSpeed" if stage is None else f"of DeepSpeed with ZeRO {stage}")


def _universal_view(folder: Path, view: Path) -> Path:
    """A folder with links to all of the checkpoint, and the optimizer's state by parameter."""
    converter = require("deepspeed.checkpoint.ds_to_universal", "train")
    view.mkdir(parents=True)
    for path in folder.iterdir():
        (view / path.name).symlink_to(path.resolve())
    tag = (folder / "latest").read_text(encoding="utf-8").strip()
    options = SimpleNamespace(
        input_folder=str(folder / tag),
        output_folder=str(view / UNIVERSAL),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,  # Trainer writes no description of the layout: the plain one.
    )
    with contextlib.redirect_stdout(io.StringIO()):
        converter.main(options)  # Writes `latest_universal` last.
    return view

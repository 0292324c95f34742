"""ρ of a training step, and whether a run routes at all."""

from __future__ import annotations

import dataclasses
import math

from cambrian_gaze.gaze.config import GazeConfig, RegionBudget


def keep_ratio(gaze: GazeConfig, stage: int, progressive: bool, step: int, steps: int) -> float:
    """ρ of optimizer step `step` (from 0) of `steps`: the least share of the regions that every query keeps.

    1.0 in stage 1. Without `progressive` there is neither dense start nor decay: K at once, or with `random_k` a draw
    between the schedule's `final_keep_ratio` and 1 from the first step on.
    """
    if stage == 1:
        return 1.0
    schedule = gaze.schedule
    if not progressive:
        schedule = dataclasses.replace(schedule, dense_fraction=0.0, decay_fraction=0.0)
    return max(schedule.keep_ratio(step, steps), gaze.min_keep_ratio)


def dense_because(gaze: GazeConfig, grid: tuple[int, int], frames: int, progressive_asked: bool) -> str | None:
    """Why a stage 2 run attends to every region although its options read as if it routed, or None.

    Args:
        grid: rows and columns of visual tokens of an image or frame.
        frames: most frames of a video.
        progressive_asked: whether `random_k` or `progressive` was asked for by name.
    """
    image = _covers(gaze.image, 1, grid)
    video = _covers(gaze.video or gaze.image, frames, grid)
    if gaze.is_dense:
        asked = gaze.schedule.random_k or progressive_asked
        return "the budget is dense (keep_ratio 1): random_k and progressive change nothing" if asked else None
    if not image:
        return None
    of = "an image" if not video else f"an image, and of a video of {frames} frames"
    return (
        f"{image} of {of}: this run is dense there, and random_k and progressive change nothing for samples with one; "
        "give a smaller top_k or kv_budget, or smaller regions"
    )


def _covers(budget: RegionBudget, frames: int, grid: tuple[int, int]) -> str | None:
    """`top_k=16 keeps all 16 regions` where the budget does so for so many frames."""
    size = budget.region_size
    regions = math.prod(math.ceil(whole / part) for whole, part in zip((frames, *grid), size, strict=True))
    if budget.top_k is not None and budget.top_k >= regions:
        return f"top_k={budget.top_k} keeps all {regions} regions"
    if budget.kv_budget is not None and budget.kv_budget // budget.tokens_per_region >= regions:
        return f"kv_budget={budget.kv_budget} keeps all {regions} regions"
    return None

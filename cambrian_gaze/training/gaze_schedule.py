"""How training steps gaze: their keep ratio ρ, what they attended to, and whether a run routes at all."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
import torch.distributed as dist

from cambrian_gaze.attention import GazeStats
from cambrian_gaze.gaze.config import GazeConfig, RegionBudget


class GazeSchedule:
    """The gaze configuration of each optimizer step, and the steps that are counted and logged."""

    def __init__(self, gaze: GazeConfig, args: Any, progressive: bool) -> None:
        """Args:
        gaze: the model's configuration.
        args: `TrainingArguments`.
        progressive: Progressive TopK in stage 2 (`GazeConfig.schedule`).
        """
        self.gaze, self._args, self._progressive = gaze, args, progressive
        self._latest = gaze
        self._seen: GazeStats | None = None

    @property
    def latest_keep_ratio(self) -> float:
        """ρ of the last step that `config` was asked for."""
        return self._latest.min_keep_ratio

    def config(self, step: int, steps: int) -> GazeConfig:
        """The model's configuration with ρ of optimizer step `step` (from 0) of `steps`."""
        ratio = keep_ratio(self.gaze, self._args.stage, self._progressive, step, steps)
        if ratio != self._latest.min_keep_ratio:
            self._latest = dataclasses.replace(self.gaze, min_keep_ratio=ratio)
        return self._latest

    def counts_at(self, step: int, logging_steps: float | None) -> bool:
        """Whether the attended KV entries of optimizer step `step` (from 1) are counted and logged."""
        every = self._args.gaze_stats_steps * max(1, int(logging_steps or 1))
        return every > 0 and (step % every == 0 or (step == 1 and self._args.logging_first_step))

    def note(self, seen: GazeStats | None) -> None:
        """Keep what the model has counted in this step, for the log."""
        self._seen = seen

    def report(self, step: int, logging_steps: float | None) -> dict[str, float]:
        """What the ranks attended to in optimizer step `step`, where it was counted. A collective then."""
        seen, self._seen = self._seen, None
        return gaze_report(seen, self._args.device) if self.counts_at(step, logging_steps) else {}


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


def gaze_report(gaze: GazeStats | None, device: torch.device) -> dict[str, float]:
    """Means over the ranks that saw a picture; empty where none did. A collective.

    Args:
        gaze: what this rank's model counted, None or zeros without a picture.
    """
    seen, spread = [0.0] * 5, [0.0] * 3
    if gaze is not None and gaze.visible_visual > 0:
        seen = [1.0, gaze.attended_visual, gaze.attended_context, gaze.visible_visual, gaze.k]
        if gaze.routing_entropy is not None and gaze.region_coverage is not None:
            spread = [1.0, gaze.routing_entropy, gaze.region_coverage]
    values = torch.tensor(seen + spread, dtype=torch.float64)
    if dist.is_initialized():
        values = values.to(device)
        dist.all_reduce(values)
    ranks, visual, context, visible, k, spreading, entropy, coverage = values.tolist()
    report = {}
    if ranks:
        report["k"] = k / ranks
        report["attended_visual_kv"] = visual / ranks
        report["attended_context_kv"] = context / ranks
        report["attended_kv_share"] = (visual + context) / visible
    if spreading:
        report["routing_entropy"] = entropy / spreading
        report["region_coverage"] = coverage / spreading
    return report

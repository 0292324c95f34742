"""Settings of a run: regions, budget and schedule of Gaze Attention. `arguments.py` has the other fields."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from cambrian_gaze.gaze.config import BUDGET_FIELDS, GazeConfig, RegionBudget
from cambrian_gaze.gaze.schedule import TopKSchedule


@dataclass
class GazeArguments:
    """Regions, budget and schedule of Gaze Attention. What is not given stays as the model's configuration has it."""

    region_size: list[int] | None = None
    """r_t r_h r_w in visual tokens after the projector."""

    top_k: int | None = None
    """K regions per query, head and layer. At most one of `top_k`, `keep_ratio`, `kv_budget`."""

    keep_ratio: float | None = None
    """Share of the offered regions that a query keeps; 1.0 is dense attention."""

    kv_budget: int | None = None
    """Visual tokens per query, context tokens not counted."""

    video_region_size: list[int] | None = None
    """As `region_size`, for videos only. Without any `video_` field videos are treated as images are."""

    video_top_k: int | None = None
    """As `top_k`, for videos only."""

    video_keep_ratio: float | None = None
    """As `keep_ratio`, for videos only."""

    video_kv_budget: int | None = None
    """As `kv_budget`, for videos only."""

    num_context_tokens: int | None = None
    """|C| learned tokens after each image or frame; dense baselines take 0."""

    context_visible: bool | None = None
    """Whether text sees the context tokens."""

    head_granularity: Literal["q_head", "kv_group"] | None = None
    """Each query head selects by itself, or each group of heads that shares a KV head."""

    descriptor: str | None = None
    """How a region's keys become one descriptor: mean, max, minmax, oracle, or one given to `register_descriptor`."""

    descriptor_keys: Literal["post_rope", "pre_rope"] | None = None
    """Whether descriptors are made of rotated keys."""

    visual_queries: Literal["causal", "unit", "gaze"] | None = None
    """What visual queries see of visual tokens."""

    visual_sees_context: bool | None = None
    """Whether visual queries see earlier units' context keys."""

    route_prompt: bool | None = None
    """Whether the prompt's text routes, or only the answer's."""

    dense_layers: list[int] | None = None
    """Decoder layers that do not route."""

    gaze_backend: str | None = None
    """Attention backend by name; `auto` picks one and says which."""

    progressive: bool = True
    """Progressive TopK over the optimizer steps of stage 2. Stage 1 attends to every region."""

    dense_fraction: float | None = None
    """Share of the optimizer steps that stay dense."""

    decay_fraction: float | None = None
    """Share of the optimizer steps over which the keep ratio decays geometrically."""

    final_keep_ratio: float | None = None
    """Keep ratio at the end of the decay; afterwards the budget alone decides."""

    random_k: bool | None = None
    """Draw the keep ratio of each step at random, so that one model serves every budget: between 1 and the progressive
    schedule's value, without `progressive` between 1 and `final_keep_ratio` from the first step on."""

    random_k_seed: int | None = None
    """Seed of `random_k`; a draw depends on it and the step alone."""

    def __post_init__(self) -> None:
        for prefix in ("", "video_"):
            given = [prefix + name for name in BUDGET_FIELDS if getattr(self, prefix + name) is not None]
            if len(given) > 1:
                raise ValueError(f"give exactly one of top_k, keep_ratio and kv_budget, got {', '.join(given)}")

    def apply(self, config: GazeConfig) -> GazeConfig:
        """`config` with the fields that were given.

        Raises: ValueError where the values make no sense (see `GazeConfig`).
        """
        plain = {name: getattr(self, name) for name in PLAIN_GAZE_FIELDS if getattr(self, name) is not None}
        if self.gaze_backend is not None:
            plain["backend"] = self.gaze_backend
        image = self._budget(config.image, "")
        video = config.video
        if any(getattr(self, "video_" + name) is not None for name in ("region_size", *BUDGET_FIELDS)):
            video = self._budget(config.video or image, "video_")
        return dataclasses.replace(config, image=image, video=video, schedule=self._schedule(config.schedule), **plain)

    def _budget(self, budget: RegionBudget, prefix: str) -> RegionBudget:
        size = getattr(self, prefix + "region_size")
        if size is not None:
            budget = dataclasses.replace(budget, region_size=tuple(size))
        given = {name: getattr(self, prefix + name) for name in BUDGET_FIELDS}
        if any(value is not None for value in given.values()):
            budget = budget.with_budget(**given)
        return budget

    def _schedule(self, schedule: TopKSchedule) -> TopKSchedule:
        names = ("dense_fraction", "decay_fraction", "final_keep_ratio", "random_k")
        changes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.random_k_seed is not None:
            changes["seed"] = self.random_k_seed
        return dataclasses.replace(schedule, **changes)


PLAIN_GAZE_FIELDS = (
    "num_context_tokens",
    "context_visible",
    "head_granularity",
    "descriptor",
    "descriptor_keys",
    "visual_queries",
    "visual_sees_context",
    "route_prompt",
    "dense_layers",
)
"""Fields of `GazeArguments` that have the same name in `GazeConfig`."""

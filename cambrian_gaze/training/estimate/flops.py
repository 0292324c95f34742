"""FLOPs of one sample by part, as the method needs them: matrix products of forward and backward, attention over the
pairs that are attended to. Recomputation under activation checkpointing is not counted, as in MFU."""

from __future__ import annotations

from torch import nn

from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.gaze.cost import Attended, attended_visual
from cambrian_gaze.gaze.layout import IMAGE, VIDEO
from cambrian_gaze.training.estimate.data import Workload
from cambrian_gaze.training.metrics.flops import FlopsModel

PARTS = (
    "vision tower",
    "projector",
    "decoder, linear layers",
    "decoder, output layer",
    "attention, visual to visual",
    "attention, text",
    "scoring of regions",
)


def sample_flops(
    model: nn.Module, work: Workload, units: int, gaze: GazeConfig, keep_ratios: list[float]
) -> dict[str, float]:
    """FLOPs of the mean sample, by `PARTS`.

    Args:
        units: images or frames of a sample that holds any.
        gaze: the run's regions and budget.
        keep_ratios: ρ at times spread evenly over the run, see `TopKSchedule`.
    """
    flops = FlopsModel.of(model)
    grid = model.config.grid
    visual, context = units * grid[0] * grid[1], units * gaze.num_context_tokens
    seen = [attended(gaze, units, grid, ratio) for ratio in keep_ratios]
    selected = sum(a.selected for a in seen) / len(seen)
    routed = [a.regions if a.kept < a.regions else 0 for a in seen]
    offered = sum(routed) / len(routed)
    per_pair = 2 * flops.per_squared_token  # of a query and a key; a causal square has half as many pairs as entries
    text = work.text_tokens
    share = work.visual_share
    linear = flops.per_token - flops.head_per_token
    return dict(
        zip(
            PARTS,
            (
                share * units * (flops.per_image - flops.projector_per_image),
                share * units * flops.projector_per_image,
                (share * (visual + context) + text) * linear,
                work.supervised_tokens * flops.head_per_token,
                share * per_pair * _visual_pairs(visual + context, units, gaze),
                per_pair * (text * text / 2 + share * text * (selected + context)),
                # Forward only, and half of what a pair costs there: q·d, no values.
                share * per_pair / 6 * text * offered,
            ),
            strict=True,
        )
    )


def attended(gaze: GazeConfig, units: int, grid: tuple[int, int], keep_ratio: float) -> Attended:
    """What a text query attends to after `units` images or frames, at the least keep ratio ρ of a training step."""
    own = GazeConfig.from_dict({**gaze.to_dict(), "min_keep_ratio": keep_ratio})
    return attended_visual([(units, *grid)], own, [VIDEO if units > 1 else IMAGE])


def _visual_pairs(tokens: int, units: int, gaze: GazeConfig) -> float:
    """Pairs of visual queries and visual keys: causal over all units, or inside each."""
    return tokens * tokens / 2 / (units if gaze.visual_queries == "unit" and units else 1)

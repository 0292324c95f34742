"""What a step attended to, over all ranks, for the log."""

from __future__ import annotations

import torch
import torch.distributed as dist

from cambrian_gaze.attention import GazeStats


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

"""Progressive TopK: dense at first, then fewer and fewer regions (paper, section 3.2, "Towards stable training").

The paper gives no shape. Here: dense for the first tenth of the optimizer steps, geometric decay of the keep ratio over
the next six tenths, then constant. The state is the optimizer step and nothing else, so resuming needs no more.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class TopKSchedule:
    """ρ_t, the lower bound on the keep ratio at optimizer step t: K_t = max(K, ceil(ρ_t · R))."""

    dense_fraction: float = 0.1
    """Share of the optimizer steps that stay dense."""

    decay_fraction: float = 0.6
    """Share of the optimizer steps over which the ratio decays geometrically."""

    final_keep_ratio: float = 1 / 8
    """Where the decay ends (K / R of the paper's 72 of 576). After it K alone decides."""

    random_k: bool = False
    """Draw the keep ratio log-uniformly between the schedule's value and 1 at each step, so that one model serves
    every budget."""

    seed: int = 0
    """Seed of `random_k`; the draw depends on (seed, step) alone, so every rank draws the same."""

    def __post_init__(self) -> None:
        if not (0 <= self.dense_fraction <= 1 and 0 <= self.decay_fraction <= 1):
            raise ValueError(f"dense_fraction and decay_fraction must be in [0, 1], got {self}")
        if self.dense_fraction + self.decay_fraction > 1:
            raise ValueError(f"dense_fraction + decay_fraction must not exceed 1, got {self}")
        if not 0 < self.final_keep_ratio <= 1:
            raise ValueError(f"final_keep_ratio must be in (0, 1], got {self.final_keep_ratio}")

    def keep_ratio(self, step: int, total_steps: int) -> float:
        """ρ at optimizer step `step` (from 0) of `total_steps`; 1.0 is dense, 0.0 once the decay is over."""
        if total_steps < 1 or step < 0:
            raise ValueError(f"step {step} of {total_steps} optimizer steps makes no sense")
        done = step / total_steps
        if done < self.dense_fraction:
            ratio = 1.0
        elif self.decay_fraction > 0 and done < self.dense_fraction + self.decay_fraction:
            ratio = self.final_keep_ratio ** ((done - self.dense_fraction) / self.decay_fraction)
        else:
            ratio = 0.0
        if self.random_k and ratio < 1.0:
            low = max(ratio, self.final_keep_ratio)
            ratio = low ** random.Random(f"{self.seed}:{step}").random()
        return ratio

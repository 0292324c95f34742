"""The arms that the quickstart compares: which checkpoint, under which gaze or policy, seeing what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CHANCE = 0.1
"""Accuracy of guessing a digit."""


@dataclass(frozen=True)
class Arm:
    """One row of the result table."""

    name: str
    title: str
    checkpoint: str
    """`dense` or `gaze`: the stage 2 run that it evaluates."""
    gaze: Mapping[str, Any] = field(default_factory=dict)
    """Run-time options, as `generate(gaze=…)` takes them."""
    policy: Mapping[str, Any] = field(default_factory=dict)
    """Name and options of a policy of `cambrian_gaze.baselines`, in the place of routing."""
    blind: bool = False
    """The page is blanked to the mean colour."""

    @property
    def keeps_regions(self) -> bool:
        """Whether routing leaves something out, so that the regions chosen are worth storing."""
        return self.gaze.get("top_k", 16) < 16


BUDGET = 8
"""Visual tokens that the policies leave, of 64: as many as K=2 regions hold, for the same dense model."""

ARMS = (
    Arm("dense", "dense", "dense", {"keep_ratio": 1.0}),
    Arm("gaze_k2", "gaze, K=2 of 16", "gaze", {"top_k": 2}),
    Arm("gaze_k1", "same model, K=1", "gaze", {"top_k": 1}),
    Arm("gaze_k4", "same model, K=4", "gaze", {"top_k": 4}),
    Arm("gaze_k16", "same model, K=16", "gaze", {"top_k": 16}),
    Arm("dense_routed_k2", "dense-trained, routed at K=2", "dense", {"top_k": 2}),
    Arm("static_gaze_k2", "dense-trained, K=2 chosen once by the question", "dense",
        policy={"name": "static_gaze", "top_k": 2}),
    Arm("evict_question", "dense-trained, 8 kept by the question (SnapKV-like)", "dense",
        policy={"name": "snapkv", "budget": BUDGET}),
    Arm("infinipot_v", "dense-trained, 8 kept by InfiniPot-V", "dense",
        policy={"name": "infinipot_v", "budget": BUDGET}),
    Arm("hermes", "dense-trained, 8 kept by HERMES", "dense", policy={"name": "hermes", "budget": BUDGET}),
    Arm("evict_random", "dense-trained, 8 kept at random", "dense", policy={"name": "random", "budget": BUDGET}),
    Arm("gaze_k2_no_context", "gaze, K=2, context tokens hidden", "gaze", {"top_k": 2, "context_visible": False}),
    Arm("gaze_k2_blind", "gaze, K=2, page blanked", "gaze", {"top_k": 2}, blind=True),
)  # fmt: skip


CHOOSING_ONCE = tuple(arm.name for arm in ARMS if arm.policy)
"""Arms that choose once what the whole answer may see."""


TRACED = ("dense", "gaze_k2", "evict_question")
"""Arms whose reading of one page is kept as a trace, in the order in which the viewer shows them."""


def check_lines(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, bool]:
    """What a full run must show, by statement."""
    gaze, dense, blind = arms["gaze_k2"], arms["dense"], arms["gaze_k2_blind"]
    recall = gaze["routing_recall"]
    routed, kept = arms["dense_routed_k2"], max(arms[name]["accuracy"] for name in CHOOSING_ONCE)
    return {
        f"gaze at K=2 reads {gaze['accuracy']:.3f} of the values (line: 0.90)": gaze["accuracy"] >= 0.90,
        f"dense attention reads {dense['accuracy'] - gaze['accuracy']:+.3f} more (line: 0.02)": (
            gaze["accuracy"] >= dense["accuracy"] - 0.02
        ),
        f"what is chosen once, {BUDGET} visual tokens per layer and KV head, reads {kept:.3f} at best, the same "
        f"dense-trained model routed at K=2 {routed['accuracy'] - kept:+.3f} more (line: 0.25)": (
            routed["accuracy"] >= kept + 0.25
        ),
        f"gaze at K=2, trained so, reads {gaze['accuracy'] - kept:+.3f} more than that (line: 0.25)": (
            gaze["accuracy"] >= kept + 0.25
        ),
        f"blind it reads {blind['accuracy']:.3f} (line: 0.20, chance {CHANCE:.2f})": blind["accuracy"] <= 0.20,
        f"best head finds the asked cell in {recall['best']['recall']:.3f} of the cases (line: 0.90, chance "
        f"{recall['chance']:.3f})": recall["best"]["recall"] >= 0.90,
        f"{gaze['attended_visual_kv']:g} visual KV entries per query, counted; the cost model says "
        f"{gaze['cost_model_kv']}, of {gaze['visual_tokens']} tokens": all(
            arm["attended_visual_kv"] == arm["cost_model_kv"] for arm in arms.values()
        ),
    }

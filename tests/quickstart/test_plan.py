"""The plans: every flag that they pass is one that training knows, and a change of any shows in a step's identity."""

import dataclasses
from pathlib import Path

import pytest

from cambrian_gaze.quickstart.plan import CONFIG_NAMES, full_plan, smoke_plan
from cambrian_gaze.quickstart.train import flags
from cambrian_gaze.training.config.config import gather


@pytest.mark.parametrize("run", CONFIG_NAMES)
@pytest.mark.parametrize("plan", [full_plan(), smoke_plan()], ids=["full", "smoke"])
@pytest.mark.parametrize(("device", "accumulation"), [("cpu", "1"), ("cuda", "2")])
def test_training_knows_every_flag(plan, run, device, accumulation):
    values, sources = gather(flags(plan, run, Path("out"), device))
    assert values["preset"] == "tiny" and "zero2" in values["deepspeed"]
    assert values["gradient_accumulation_steps"] == accumulation
    assert values["stage"] == (1 if run == "stage1" else 2)
    assert sources["data_path"] == "the command line"
    assert ("model_name_or_path" in values) == (run != "stage1")


def test_arms_differ_in_their_gaze_alone():
    values = {run: gather(flags(full_plan(), run, Path("out"), "cpu"))[0] for run in ("dense", "gaze")}
    differing = {key for key in values["dense"] | values["gaze"] if values["dense"].get(key) != values["gaze"].get(key)}
    assert differing <= {"output_dir", "keep_ratio", "top_k", "num_context_tokens", "base"}
    assert values["dense"]["num_context_tokens"] == 0 and values["gaze"]["top_k"] == 2


def test_identity_covers_flags_files_and_seed():
    plan = full_plan()
    identities = [
        plan.training_identity("gaze"),
        plan.training_identity("dense"),
        full_plan(seed=1).training_identity("gaze"),
        dataclasses.replace(plan, overrides={"gaze": {"max_steps": 1}}).training_identity("gaze"),
    ]
    assert all(a != b for place, a in enumerate(identities) for b in identities[:place])
    assert plan.training_identity("gaze") == full_plan().training_identity("gaze")

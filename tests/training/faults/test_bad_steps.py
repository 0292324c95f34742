"""Which steps are bad, and when there are too many."""

import json
import math
from pathlib import Path

import pytest
import torch

from cambrian_gaze.data.collator import Origin
from cambrian_gaze.data.quarantine import read_quarantine
from cambrian_gaze.training.faults.bad_steps import (
    FEWEST,
    WINDOW,
    BadSteps,
    TooManyBadSteps,
    Verdict,
    propagate_nonfinite,
)

SAMPLE = Origin("a.jsonl", 3, "x", "docs", "image")


@pytest.mark.parametrize("norm", [math.nan, math.inf, -1.0])
def test_a_norm_that_is_no_number_is_bad_from_the_first_step(tmp_path: Path, norm: float) -> None:
    assert "not finite" in BadSteps(tmp_path, 0, 1).judge(norm).reason


def test_a_spike_is_measured_by_the_good_steps_before(tmp_path: Path) -> None:
    steps = BadSteps(tmp_path, 10, 1)
    assert all(steps.judge(norm) is None for norm in [1000.0] + [1.0] * (FEWEST - 1)), "no norm is usual yet"
    verdict = steps.judge(11.0)
    assert verdict.usual == 1.0 and "11.0 times" in verdict.reason
    assert steps.judge(9.0) is None
    assert len(steps.norms) == FEWEST + 1, "a bad norm is no measure"
    resumed = BadSteps(tmp_path, 10, 1)
    steps.save(tmp_path)
    resumed.load(tmp_path)
    assert resumed.judge(11.0) == steps.judge(11.0)
    assert BadSteps(tmp_path, 0, 1).judge(1e30) is None


def test_the_log_can_be_excluded_and_old_bad_steps_do_not_count(tmp_path: Path) -> None:
    steps = BadSteps(tmp_path, 0, 1, rank=2)
    steps.add(5, Verdict(math.nan), [SAMPLE], 1.5)
    steps.add(5 + WINDOW, Verdict(math.nan), [SAMPLE], 1.5)
    with pytest.raises(TooManyBadSteps, match="2 of the last 1000 steps .* max_bad_steps=1"):
        steps.add(6 + WINDOW, Verdict(math.nan), [SAMPLE], 1.5)
    entry = read_quarantine(tmp_path / "bad_steps.jsonl")[0]
    assert (entry["file"], entry["row"], entry["id"], entry["rank"]) == ("a.jsonl", 3, "x", 2)
    lines = (tmp_path / "bad_steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [5, 5 + WINDOW, 6 + WINDOW]


def test_taint_is_exact_and_spreads_infinity() -> None:
    weight = torch.tensor([0.1, 0.7], requires_grad=True)
    loss = (weight * 3).sum()
    assert torch.equal(propagate_nonfinite(loss), loss)
    propagate_nonfinite(loss).backward()
    assert weight.grad.tolist() == [3.0, 3.0]
    weight.grad = None
    propagate_nonfinite(weight.sum() + math.inf).backward()
    assert weight.grad.isnan().all()

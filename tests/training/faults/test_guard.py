"""Signals, steps that hang, losses that are no numbers: a run ends cleanly or goes on, on all ranks alike."""

import json
import math
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from cambrian_gaze.training.checkpoint.checkpoint import incomplete_because
from cambrian_gaze.training.launch.agent import EXIT_HUNG, EXIT_REQUEUE, EXIT_STOPPED, EXIT_TERMINATED
from cambrian_gaze.training.metrics.log import read_log
from tests.training._ranks import launch
from tests.training._runs import flags, write_data
from tests.training.checkpoint.test_resume import exact, zero


def run_with(argv: list[str], event: str, rank: int, at: int, action: str) -> int:
    """Train; on one rank do something at an event of optimizer step `at`."""
    from transformers import TrainerCallback

    from cambrian_gaze.training.run import main
    from cambrian_gaze.training.trainer import CambrianTrainer

    mine = int(os.environ.get("RANK", 0)) == rank

    class Act(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if mine and event == "begin" and state.global_step + 1 == at:
                if action == "hang":
                    time.sleep(1000)
                os.kill(os.getpid(), getattr(signal, action))

    if event == "loss":
        compute = CambrianTrainer.compute_loss

        def spoilt(self, model, inputs, *args, **kwargs):
            if mine and self.state.global_step + 1 == at:
                inputs["pixel_values"] = torch.full_like(inputs["pixel_values"], float(action))
            return compute(self, model, inputs, *args, **kwargs)

        CambrianTrainer.compute_loss = spoilt
    return main(argv, [Act()])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "status"), [("SIGUSR1", EXIT_REQUEUE), ("SIGTERM", EXIT_TERMINATED)], ids=["requeue", "terminate"]
)
def test_a_signal_to_one_rank_stops_all_with_a_checkpoint_and_the_run_goes_on(
    pages: Path, tmp_path: Path, name: str, status: int
) -> None:
    changes = {"deepspeed": zero(2), "save_steps": 100, "max_steps": 6}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert launch(2, run_with, flags(pages, broken, **changes), "begin", 1, 3, name, ends=status) == [status] * 2
    assert [path.name for path in broken.glob("checkpoint-*")] == ["checkpoint-3"]
    assert incomplete_because(broken / "checkpoint-3") is None
    assert not (broken / "model.safetensors").exists(), "a run that has stopped is not finished"
    assert launch(2, run_with, flags(pages, broken, **changes), "", 0, 0, "") == [0, 0]
    assert launch(2, run_with, flags(pages, whole, **changes), "", 0, 0, "") == [0, 0]
    assert exact(broken) == exact(whole)
    assert len(exact(whole)) == 6


def test_a_rank_that_hangs_is_found_with_its_stacks(pages: Path, tmp_path: Path) -> None:
    changes = {"hang_timeout": 3, "save_strategy": "no", "dataloader_num_workers": 1}
    changes |= {"dataloader_multiprocessing_context": "fork"}
    began = time.monotonic()
    codes = launch(2, run_with, flags(pages, tmp_path, **changes), "begin", 1, 4, "hang", ends=EXIT_HUNG, timeout=90)
    assert codes == [EXIT_HUNG] * 2 and time.monotonic() - began < 60
    waiting, hanging = ((tmp_path / "stacks" / f"rank-{rank}.txt").read_text() for rank in range(2))
    assert "more than 3 s" in hanging and "on_step_begin" in hanging
    assert "all_reduce" in waiting or "backward" in waiting or "forward" in waiting
    assert len(read_log(tmp_path)) == 3


def tensors_of(state: object) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors_of(part)]


def moments(checkpoint: Path) -> list[torch.Tensor]:
    """Everything that the optimizers of all ranks keep, step counts included."""
    files = sorted(checkpoint.rglob("*optim_states.pt")) or [checkpoint / "optimizer.pt"]
    found = []
    for path in files:
        state = torch.load(path, weights_only=False)
        state = state["optimizer_state_dict"]["base_optimizer_state"] if "optimizer_state_dict" in state else state
        found += tensors_of(state)
    return found


@pytest.mark.parametrize(
    ("ranks", "stage", "value"),
    [
        pytest.param(1, None, "inf", id="one rank"),
        pytest.param(2, None, "nan", id="DDP", marks=pytest.mark.slow),
        pytest.param(2, 1, "nan", id="ZeRO-1", marks=pytest.mark.slow),
        pytest.param(2, 2, "inf", id="ZeRO-2", marks=pytest.mark.slow),
    ],
)
def test_a_batch_without_a_finite_loss_changes_nothing(
    tmp_path: Path, ranks: int, stage: int | None, value: str
) -> None:
    """On one rank of two, in the first of two micro-batches: the step is left out on both, and the schedules go on."""
    pages = write_data(tmp_path / "pages", list("i" * 12))
    changes = {"deepspeed": zero(stage) if stage else None, "save_steps": 1, "max_steps": 5}
    changes |= {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 1, "save_total_limit": None}
    whole, spoilt = tmp_path / "whole", tmp_path / "spoilt"
    assert launch(ranks, run_with, flags(pages, whole, **changes), "", 0, 0, "") == [0] * ranks
    assert launch(ranks, run_with, flags(pages, spoilt, **changes), "loss", ranks - 1, 3, value) == [0] * ranks
    before, after, later = (spoilt / f"checkpoint-{step}" for step in (2, 3, 4))
    assert (before / "model.safetensors").read_bytes() == (after / "model.safetensors").read_bytes()
    assert (later / "model.safetensors").read_bytes() != (after / "model.safetensors").read_bytes()
    kept, same = moments(before), moments(after)
    assert len(kept) == len(same) > 10
    assert all(torch.equal(a, b) for a, b in zip(kept, same, strict=True))
    lines, expected = read_log(spoilt), read_log(whole)
    assert [line["lr/decoder"] for line in lines] == [line["lr/decoder"] for line in expected]
    assert [line["keep_ratio"] for line in lines] == [line["keep_ratio"] for line in expected]
    assert [line["loss"] for line in lines[:2]] == [line["loss"] for line in expected[:2]]
    assert [line["bad_steps"] for line in lines] == [0, 0, 1, 1, 1]
    assert [math.isfinite(line["loss"]) for line in lines] == [True, True, False, True, True]
    assert math.isfinite(read_log(spoilt, "end")[-1]["train_loss"])
    entries = [json.loads(line) for line in (spoilt / "bad_steps.jsonl").read_text().splitlines()]
    assert {entry["step"] for entry in entries} == {3}
    assert {entry["rank"] for entry in entries} == set(range(ranks)) and len(entries) == 2 * ranks
    assert all(entry["file"] == str(pages) and entry["row"] > 0 and entry["id"] for entry in entries)


@pytest.mark.slow
def test_too_many_bad_steps_stop_the_run_on_all_ranks(pages: Path, tmp_path: Path) -> None:
    changes = {"deepspeed": zero(2), "max_bad_steps": 0, "save_strategy": "no"}
    codes = launch(2, run_with, flags(pages, tmp_path, **changes), "loss", 0, 2, "nan", ends=EXIT_STOPPED, timeout=60)
    assert codes == [EXIT_STOPPED] * 2
    assert len(read_log(tmp_path)) == 1

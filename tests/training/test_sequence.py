"""Sequence parallelism in a run: two ranks that share their batches train what one rank trains, and count it once."""

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from cambrian_gaze.attention.sequence import SequenceGroup
from cambrian_gaze.models.presets import preset
from cambrian_gaze.training.config.arguments import TrainingArguments
from cambrian_gaze.training.metrics.log import read_log
from cambrian_gaze.training.sequence import check_same_batches
from tests.training._ranks import launch
from tests.training._runs import ROOT, TINY, flags, run, write_data

COUNTS = ("samples", "quarantined", "filled")
OPTIONS = {"max_steps": 5, "save_strategy": "no", "learning_rate": 1e-3, "adam_epsilon": 1e-3}
OPTIONS |= {"max_quarantined_share": 0.5}


def curves(folder: Path, *keys: str) -> list[list[float]]:
    return [[line[key] for line in read_log(folder)] for key in keys]


def zero(stage: int) -> str:
    return str(ROOT / "train" / "deepspeed" / f"zero{stage}.json")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records with pictures, without, and one that cannot be read."""
    return write_data(tmp_path_factory.mktemp("records"), list("iitibiiiitiiii"))


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    assert launch(1, run, flags(data, folder, **OPTIONS)) == [0]
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"deepspeed": zero(2), "gradient_checkpointing": True},
        pytest.param({"deepspeed": zero(1)}, marks=pytest.mark.slow),
        pytest.param({"gradient_checkpointing": True}, marks=pytest.mark.slow),
        pytest.param(
            {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "deepspeed": zero(2)},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["DDP", "ZeRO-2, checkpointing", "ZeRO-1", "DDP, checkpointing", "ZeRO-2, accumulated"],
)
def test_two_ranks_train_what_one_trains(data: Path, alone: Path, tmp_path: Path, changes: dict) -> None:
    shared = {"sequence_parallel_size": 2, **OPTIONS, **changes}
    assert launch(2, run, flags(data, tmp_path, **shared)) == [0, 0]
    for want, got in zip(curves(alone, "loss", "grad_norm"), curves(tmp_path, "loss", "grad_norm"), strict=True):
        assert got == pytest.approx(want, rel=2e-4)
    exact = ("k", "keep_ratio", "attended_visual_kv", "attended_kv_share", "quarantined", "filled")
    for want, got in zip(curves(alone, *exact), curves(tmp_path, *exact), strict=True):
        assert got == pytest.approx(want, rel=1e-9)
    end, other = (read_log(folder, "end")[-1] for folder in (alone, tmp_path))
    assert {key: end[key] for key in COUNTS} == {key: other[key] for key in COUNTS}
    assert end["quarantined"] == 1
    fills = [len((folder / "quarantine.fills.jsonl").read_text().splitlines()) for folder in (alone, tmp_path)]
    assert fills[0] == fills[1] == 1
    weights, others = (load_file(folder / "model.safetensors") for folder in (alone, tmp_path))
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
def test_four_ranks_in_two_groups_train_what_two_train(data: Path, tmp_path: Path) -> None:
    """Sequence parallelism beside data parallelism, with packing."""
    options = {**OPTIONS, "packing": True, "per_device_train_batch_size": 1, "deepspeed": zero(2)}
    assert launch(2, run, flags(data, tmp_path / "two", **options)) == [0] * 2
    assert launch(4, run, flags(data, tmp_path / "four", sequence_parallel_size=2, **options)) == [0] * 4
    for key in ("loss", "grad_norm", "k"):
        two, four = (curves(tmp_path / name, key)[0] for name in ("two", "four"))
        assert four == pytest.approx(two, rel=2e-4), key
    two, four = (read_log(tmp_path / name, "end")[-1] for name in ("two", "four"))
    assert {key: two[key] for key in COUNTS} == {key: four[key] for key in COUNTS}


def test_tokens_would_be_counted_once_per_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="include_num_input_tokens_seen"):
        TrainingArguments(output_dir=str(tmp_path), sequence_parallel_size=2, include_num_input_tokens_seen="all")


def refused(argv: list[str]) -> int:
    """Exit status 0 where the run is refused for its heads."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = run(argv)
    heads = "4 query heads and 1 key-value heads" in said.getvalue()
    return 0 if status == 2 and (heads or not said.getvalue()) else 4  # the first rank alone says why


def test_heads_that_do_not_divide_are_refused_before_the_first_step(data: Path, tmp_path: Path) -> None:
    text = preset("tiny")["text_config"] | {"num_key_value_heads": 1}
    overrides = json.loads(TINY["model_overrides"]) | {"text_config": text}
    options = {"sequence_parallel_size": 2, "model_overrides": json.dumps(overrides)}
    assert launch(2, refused, flags(data, tmp_path, **options)) == [0, 0]


def torn(steps: list[int]) -> int:
    """Exit status 0 where ranks that read different batches are told so, in the second of `steps`."""
    dist.init_process_group("gloo")
    group, rank = SequenceGroup(dist.group.WORLD), dist.get_rank()
    try:
        for step in steps:
            batch = {"input_ids": torch.tensor([[1, 2, 3 + rank * step]]), "labels": torch.ones(1, 3), "num_samples": 1}
            check_same_batches([batch], group, torch.device("cpu"))
    except ValueError as error:
        return 0 if step == 1 and "different batches" in str(error) else 4
    return 5


def test_ranks_of_a_group_that_read_different_batches_stop() -> None:
    assert launch(2, torn, [0, 1, 0]) == [0, 0]

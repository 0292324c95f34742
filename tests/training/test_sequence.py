"""Sequence parallelism in a run: two ranks that share their batches train what one rank trains, and count it once."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cambrian_gaze.training import config
from cambrian_gaze.training.log import read_log
from tests.training._ranks import launch
from tests.training._runs import ROOT, TINY, flags, run, write_data

COUNTS = ("samples", "padding", "quarantined", "filled")
OPTIONS = {"max_steps": 5, "save_strategy": "no", "learning_rate": 1e-3, "adam_epsilon": 1e-3, "max_length": 256}


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
    exact = ("k", "keep_ratio", "attended_visual_kv", "attended_kv_share", "padding", "quarantined", "filled")
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


def arguments(monkeypatch: pytest.MonkeyPatch, ranks: int, **changes: object):
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    run = config.load(flags(Path("none.jsonl"), Path("none"), **changes))
    return run.training


def test_the_batch_is_that_of_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"sequence_parallel_size": 4, "per_device_train_batch_size": 1}
    assert arguments(monkeypatch, 1, per_device_train_batch_size=1, global_batch_size=6).gradient_accumulation_steps == 6
    with pytest.raises(config.ConfigError, match="sequence_parallel_size 4 must divide the number of ranks, 6"):
        arguments(monkeypatch, 6, **options)
    with pytest.raises(config.ConfigError, match="include_num_input_tokens_seen"):
        arguments(monkeypatch, 8, include_num_input_tokens_seen="all", **options)


def heads_run(argv: list[str]) -> int:
    """Exit status 3 where the run is refused for its heads."""
    try:
        run(argv)
    except ValueError as error:
        return 3 if "4 query heads and 1 key-value heads" in str(error) else 4
    return 0


def torn_run(argv: list[str]) -> int:
    """Exit status 3 where a run whose ranks read different batches says so."""
    from cambrian_gaze.training.arguments import TrainingArguments

    TrainingArguments.data_parallel_rank = property(lambda self: self.process_index)
    TrainingArguments.data_parallel_size = property(lambda self: self.world_size)
    from cambrian_gaze.training import sequence

    group = sequence.SequenceGroup
    sequence.sequence_group.__globals__["SequenceGroup"] = lambda _: group(torch.distributed.group.WORLD)
    sequence.dist.new_group = lambda *a, **k: torch.distributed.group.WORLD
    try:
        run(argv)
    except ValueError as error:
        return 3 if "have read different batches" in str(error) else 4
    return 0

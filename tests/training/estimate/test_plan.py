"""Plans of the shipped configurations, their warnings, and the figures beside the FLOPs model of training."""

import dataclasses
import re
from pathlib import Path

import pytest

from cambrian_gaze.training.build import build_shapes
from cambrian_gaze.training.config.config import load
from cambrian_gaze.training.config.layers import ConfigError
from cambrian_gaze.training.estimate.data import KNOWN, Workload, workload
from cambrian_gaze.training.estimate.flops import PARTS, sample_flops
from cambrian_gaze.training.estimate.plan import PAPER_GPU_HOURS, PAPER_PARTS, RunEstimate, make_plan
from cambrian_gaze.training.metrics.flops import FlopsModel
from tests.training._runs import ROOT

FOLDER = ROOT / "train" / "configs"
CONFIGS = sorted(FOLDER.glob("*.yaml"))


def plan(name: str, *flags: str, gpus: int = 64, gpu: str = "h100", **changes: float) -> RunEstimate:
    return make_plan([str(FOLDER / f"{name}.yaml"), *flags], gpus, gpu, 0.35, **changes)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_has_a_plan(path: Path) -> None:
    ours = "cambrian" in path.stem
    # The others bring no data, and `stage2.yaml` starts from a model that is not there.
    found = plan(path.stem) if ours else plan(path.stem, "--preset", "tiny", text_tokens=100)
    assert sum(found.memory.values()) > 0 and sum(found.flops.values()) > 0
    assert not any("does not divide" in text or "max_length" in text for text in found.warnings)
    if ours:
        assert found.gpu_hours > 0
        assert not any("does not fit" in text for text in found.warnings), found.warnings
    assert found.as_dict()["gpu_hours"] == found.gpu_hours


def test_the_papers_run_lands_near_its_gpu_hours() -> None:
    """With the same assumptions for all, none of them fitted: within a factor of two; the page says what comes out."""
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    for size, row in (("4b", "gaze_4k"), ("7b", "gaze_1500")):
        runs = [
            plan(f"pretrain_cambrian_{size}_compressed"),
            plan(f"finetune_cambrian_{size}_compressed_gaze_54"),
            plan(f"finetune_video_cambrian_{size}_{row}"),
        ]
        assert {run.recipe for run in runs} >= PAPER_PARTS
        hours = sum(run.gpu_hours for run in runs)
        assert PAPER_GPU_HOURS / 2 < hours < PAPER_GPU_HOURS * 2
        off = hours / PAPER_GPU_HOURS - 1
        said = rf"\b{hours:.0f}\b.{{0,20}}, {abs(off):.0%} {'above' if off > 0 else 'below'}"
        assert re.search(said.replace("%", " %"), page), said


def test_sequence_parallelism_shares_activations_and_batches() -> None:
    """A row of 64,000 tokens does not fit one GPU and does fit four; hours do not change."""
    flags = ("--per_device_train_batch_size", "1", "--max_length", "64000", "--gradient_checkpointing", "true")
    name = "finetune_video_cambrian_7b_gaze_4k"
    one, four = (plan(name, *flags, "--sequence_parallel_size", size, gpus=16) for size in ("1", "4"))
    assert four.batch["readers"] == 4 and four.batch["global"] == one.batch["global"]
    assert four.hours == pytest.approx(one.hours)
    for part in ("decoder", "recomputed", "selections"):
        assert four.memory[part] == pytest.approx(one.memory[part] / 4, rel=0.1), part
    for wrong, gpus in (("3", 16), ("7", 28)):
        with pytest.raises(ValueError, match="must divide|2, 4"):
            plan(name, "--sequence_parallel_size", wrong, gpus=gpus)


def test_hours_follow_gpus_and_mfu() -> None:
    name = "finetune_cambrian_4b_gaze_72"
    one = plan(name, gpus=8)
    assert plan(name, gpus=64).gpu_hours == pytest.approx(one.gpu_hours, rel=1e-3)
    assert make_plan([str(FOLDER / f"{name}.yaml")], 8, "h100", 0.7).hours == pytest.approx(one.hours / 2)
    assert one.steps == -(-7_000_000 // 512)
    assert plan(name, "--max_steps", "10").steps == 10
    assert plan(name, samples=512).steps == 1
    assert one.batch["accumulation"] == 8


def test_flops_are_those_of_training_where_attention_is_dense(tmp_path: Path) -> None:
    run = load([str(FOLDER / "finetune_cambrian_4b_dense.yaml"), "--use_cpu", "--no_bf16", "--deepspeed", "null"])
    model = build_shapes(run.model, run.gaze, run.training)
    work = Workload(1, 1.0, 400, 400, "")
    parts = sample_flops(model, work, 1, model.config.gaze_config, [0.0])
    assert tuple(parts) == PARTS
    assert parts["scoring of regions"] == 0
    flops = FlopsModel.of(model)
    tokens = 576 + 400
    # The meter counts the output layer at every token, the model computes it where something is supervised.
    counted = flops.total(tokens, tokens**2, 1) - 576 * flops.head_per_token
    assert sum(parts.values()) == pytest.approx(counted, rel=1e-6)


def test_routing_costs_less_than_it_saves() -> None:
    dense, gaze = (plan(f"finetune_video_cambrian_4b_{row}").flops for row in ("dense", "gaze_4k"))
    assert gaze["attention, text"] < dense["attention, text"]
    assert 0 < gaze["scoring of regions"] < dense["attention, text"] - gaze["attention, text"]


def test_checkpointing_saves_memory() -> None:
    name = "finetune_cambrian_4b_dense"
    on, off = plan(name), plan(name, "--no_gradient_checkpointing")
    assert on.activations == off.activations
    assert on.activations["without"] > 2 * on.activations["with checkpointing"]
    assert sum(off.memory.values()) - sum(on.memory.values()) == (
        on.activations["without"] - on.activations["with checkpointing"]
    )


def test_warnings() -> None:
    image = "finetune_cambrian_4b_gaze_72"
    said = plan(image, gpus=24).warnings
    assert any("does not divide" in text and "24 ranks" in text for text in said)
    said = plan("finetune_video_cambrian_4b_dense", "--max_length", "2048").warnings
    assert any("holds 12 images or frames of 144 tokens and 200 of text, not 128" in text for text in said)
    said = plan(image, "--per_device_train_batch_size", "64", gpus=8, gpu="a100-40").warnings
    assert any("does not fit" in text and "a100-40" in text for text in said)
    said = plan(image, "--data_path", "elsewhere.jsonl").warnings
    assert any("number of samples is not known" in text for text in said)
    assert plan(image).warnings == []


def test_nonsense_is_refused() -> None:
    for changes, said in (({"gpu": "h1000"}, "known: h100"), ({"gpus": 0}, "at least one GPU")):
        with pytest.raises(ValueError, match=said):
            plan("stage1", **changes)
    with pytest.raises(ValueError, match="supervised tokens"):
        plan("stage1", text_tokens=10, supervised_tokens=20)
    with pytest.raises(ConfigError, match="deepspeed: nowhere.json"):
        plan("stage1", "--deepspeed", "nowhere.json")


def test_rows_of_ones_own_data_are_counted(pages: Path) -> None:
    found = plan("stage1", "--data_path", str(pages), gpus=1, gpu="rtx4090")
    assert (found.data.samples, found.steps) == (12, 2)
    args = load([str(FOLDER / "stage1.yaml"), "--data_path", str(pages), "data_recipes/cambrian_7m.yaml"]).data
    with pytest.raises(ValueError, match="one of the known recipes"):
        workload(args)
    assert dataclasses.replace(args, data_path=["data_recipes/cambrian_7m.yaml"]) and KNOWN["cambrian_7m"].samples

"""Configuration files and flags: types, precedence, and errors that name the file and the nearest key."""

from pathlib import Path

import pytest

from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.training.config.arguments import ARGUMENT_CLASSES
from cambrian_gaze.training.config.config import ConfigError, field_docs, help_text, load
from cambrian_gaze.training.config.gaze_arguments import GazeArguments
from tests.training._runs import ROOT

CONFIGS = sorted((ROOT / "train" / "configs").glob("*.yaml"))


def write(folder: Path, text: str, name: str = "run.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_loads(path: Path, tmp_path: Path) -> None:
    run = load([str(path), "--use_cpu", "--no_bf16", f"--output_dir={tmp_path}"])
    gaze = run.gaze.apply(GazeConfig())
    assert gaze.num_context_tokens == (0 if "dense" in path.stem else 4)
    assert run.training.stage in (1, 2)
    if run.training.deepspeed:
        assert Path(run.training.deepspeed).is_file()


def test_flags_override_the_file_and_the_file_its_base(tmp_path: Path) -> None:
    write(tmp_path, "learning_rate: 1e-3\ntop_k: 4\nseed: 7\nregion_size: [1, 2, 2]\n", "base.yaml")
    path = write(tmp_path, "base: base.yaml\ntop_k: null\nkv_budget: 72\nwarmup_ratio: 0.5\n")
    out = f"--output_dir={tmp_path}"
    run = load([path, "--learning-rate", "2e-3", "--region_size", "1", "3", "3", "--no_progressive", out])
    assert (run.training.learning_rate, run.training.seed, run.training.warmup_steps) == (2e-3, 7, 0.5)
    assert (run.gaze.top_k, run.gaze.kv_budget, run.gaze.region_size) == (None, 72, [1, 3, 3])
    assert run.gaze.progressive is False
    assert run.sources["kv_budget"] == path
    assert run.sources["seed"].endswith("base.yaml")
    assert run.sources["learning_rate"] == "the command line"


@pytest.mark.parametrize(
    ("text", "flags", "parts"),
    [
        ("learning_rte: 1e-3\n", [], ["run.yaml", "'learning_rte'", "'learning_rate'"]),
        ("top_k: 2\n", ["--topk", "3"], ["the command line", "'topk'", "'top_k'"]),
        ("top_k: two\n", [], ["run.yaml", "top_k", "two"]),
        ("top_k: 2\nkeep_ratio: 0.5\n", [], ["run.yaml", "exactly one", "top_k, keep_ratio"]),
        ("stage: 3\n", [], ["run.yaml", "stage", "3"]),
        ("- a\n- b\n", [], ["run.yaml", "list"]),
        ("a: [\n", [], ["run.yaml", "no YAML"]),
        ("base: run.yaml\n", [], ["run.yaml", "leads back"]),
        ("base: other.yaml\n", [], ["other.yaml", "cannot read"]),
        ("", ["value"], ["'value'", "before any"]),
        ("warmup_ratio: 2\n", [], ["warmup_ratio", "[0, 1)"]),
        ("save_milestone_steps: 0\n", [], ["save_milestone_steps 0 must be a multiple of save_steps"]),
        ("save_milestone_steps: 500\nsave_steps: 200\n", [], ["save_milestone_steps 500", "save_steps", "now 200"]),
        ("save_milestone_steps: 500\nsave_steps: 0.1\n", [], ["a number of steps, now 0.1"]),
        ("save_milestone_steps: 500\nsave_strategy: epoch\n", [], ["save_strategy epoch"]),
    ],
)
def test_errors_name_the_place_and_the_remedy(tmp_path: Path, text: str, flags: list[str], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load([write(tmp_path, text), *flags])
    for part in parts:
        assert part in str(error.value)


def test_every_field_has_a_docstring_and_it_is_the_help() -> None:
    for cls in ARGUMENT_CLASSES:
        own = cls.__dict__["__annotations__"]
        assert set(own) <= set(field_docs(cls)), cls
    text = " ".join(help_text().split())
    assert "K regions per query, head and layer." in text
    assert "--per_device_train_batch_size" in text


def test_gaze_arguments_change_only_what_is_given() -> None:
    config = GazeConfig.from_dict({"image": {"region_size": [1, 2, 2], "top_k": 3}, "head_granularity": "kv_group"})
    assert GazeArguments().apply(config) == config
    changed = GazeArguments(keep_ratio=1.0, num_context_tokens=0, random_k=True, random_k_seed=5).apply(config)
    assert changed.is_dense
    assert changed.image.region_size == (1, 2, 2)
    assert (changed.schedule.random_k, changed.schedule.seed, changed.head_granularity) == (True, 5, "kv_group")
    video = GazeArguments(video_region_size=[2, 2, 2], video_top_k=8).apply(config).video
    assert (video.region_size, video.top_k) == ((2, 2, 2), 8)
    with pytest.raises(ValueError, match="video_top_k, video_kv_budget"):
        GazeArguments(video_top_k=1, video_kv_budget=2)


def test_milestones_are_among_the_checkpoints_written(tmp_path: Path) -> None:
    run = load(["--save_milestone_steps=600", "--save_steps=200", f"--output_dir={tmp_path}", "--use_cpu"])
    assert run.training.save_milestone_steps == 600


@pytest.mark.parametrize(
    "key",
    [
        *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "max_steps"),
        *("num_train_epochs", "base_batch_size", "max_length", "max_pixels"),
    ],
)
def test_numbers_that_stop_every_run_are_refused_at_once(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"the command line: {key} (must be positive, got 0|is 0)"):
        load([f"--output_dir={tmp_path}", "--use_cpu", f"--{key}=0"])


@pytest.mark.parametrize("key", ["learning_rate", "weight_decay", "dataloader_num_workers", "max_quarantined_share"])
def test_negative_numbers_are_refused_at_once(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{key} must not be negative, got -1"):
        load([f"--output_dir={tmp_path}", "--use_cpu", f"--{key}=-1"])

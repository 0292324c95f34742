"""Gradient accumulation from the global batch: in Python, on the command line, and in `TrainingArguments`."""

import subprocess
import sys
from pathlib import Path

import pytest
import transformers

from cambrian_gaze.training.config.arguments import TrainingArguments
from cambrian_gaze.training.config.layers import ConfigError
from cambrian_gaze.training.launch.batch import accumulation_steps, describe, main
from tests.training._runs import ROOT

VIDEO = str(ROOT / "train" / "configs" / "finetune_video_cambrian_4b_gaze_4k.yaml")


def test_it_divides_or_says_what_would() -> None:
    assert accumulation_steps(512, 8, 64) == 1
    assert accumulation_steps(256, 1, 8) == 32
    with pytest.raises(ValueError, match="one of 1, 3$"):
        accumulation_steps(12, 2, 4)
    with pytest.raises(ValueError, match="number of ranks that divides 512"):
        accumulation_steps(512, 8, 24)
    with pytest.raises(ValueError, match="must be positive"):
        accumulation_steps(0, 8, 1)


def test_it_reads_files_and_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert describe([VIDEO], 8) == "256 samples a step: 8 ranks × 1, accumulated over 32"
    assert describe([VIDEO, "--per_device_train_batch_size=4"], 64).endswith("64 ranks × 4, accumulated over 1")
    assert describe([], 2) == "16 samples a step: 2 ranks × 8, accumulated over 1"
    shared = [VIDEO, "--sequence_parallel_size", "4"]
    assert describe(shared, 8) == "256 samples a step: 2 groups of 4 ranks × 1, accumulated over 128"
    with pytest.raises(ConfigError, match="must divide the number of ranks, 6"):
        describe(shared, 6)
    with pytest.raises(ConfigError, match="whole number, got 'many'"):
        describe(["--global_batch_size", "many"], 2)
    assert main([VIDEO, "--ranks", "8", "--global_batch_size", "100"]) == 2
    assert "100 is no multiple of 8 ranks × per_device_train_batch_size 1" in capsys.readouterr().err


def test_it_does_not_import_torch() -> None:
    code = "import sys, cambrian_gaze.training.launch.batch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("ranks", "given", "steps", "whole"),
    [
        (2, {"global_batch_size": 32, "per_device_train_batch_size": 4}, 4, 32),
        (2, {"global_batch_size": 32, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}, 4, 32),
        (2, {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}, 3, 24),
        (8, {"sequence_parallel_size": 4, "global_batch_size": 6, "per_device_train_batch_size": 1}, 3, 6),
    ],
)
def test_arguments_follow_the_number_of_ranks(
    ranks: int, given: dict, steps: int, whole: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    # It would wait for the other ranks.
    monkeypatch.setattr(transformers.TrainingArguments, "__post_init__", lambda self: None)
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **given)
    assert (args.gradient_accumulation_steps, args.global_batch_size) == (steps, whole)


def test_arguments_refuse_a_batch_that_does_not_fit(tmp_path: Path) -> None:
    for given, said in (
        ({"global_batch_size": 12, "per_device_train_batch_size": 8}, "no multiple of 1 ranks"),
        ({"global_batch_size": 16, "gradient_accumulation_steps": 3}, "means gradient_accumulation_steps 2, not 3"),
        ({"sequence_parallel_size": 2}, "sequence_parallel_size 2 must divide the number of ranks, 1"),
    ):
        with pytest.raises(ValueError, match=said):
            TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **given)

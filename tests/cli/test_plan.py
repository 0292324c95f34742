"""`cambrian-gaze plan` as a command: tables, sums, JSON, errors."""

import json
from pathlib import Path

import pytest

from cambrian_gaze.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
CHAIN = [
    str(ROOT / "train" / "configs" / f"{name}.yaml")
    for name in ("finetune_cambrian_4b_compressed_gaze_54", "finetune_video_cambrian_4b_gaze_4k")
]


def test_tables_sum_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "plan.json"
    assert main(["plan", *CHAIN, "--gpus", "64", "--gpu", "h100", "--json", str(figures)]) == 0
    output = capsys.readouterr().out
    for part in ("finetune_video_cambrian_4b_gaze_4k.yaml on 64 × h100", "weights", "attention, visual to visual"):
        assert part in output
    plans = json.loads(figures.read_text())
    hours = sum(plan["gpu_hours"] for plan in plans)
    assert f"together: {hours:,.0f} GPU-hours" in output
    assert "the paper: about 384 H100 GPU-hours" in output and "assumed and not fitted" in output
    assert list(tmp_path.iterdir()) == [figures]


def test_one_run_with_flags_of_train(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", CHAIN[0], "--gpus", "3", "--per_device_train_batch_size", "4", "--mfu", "0.5"]) == 0
    output = capsys.readouterr().out
    assert "warning: the batch does not divide" in output
    assert "assumed MFU of 0.5" in output
    assert "together:" not in output and "the paper" not in output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([CHAIN[0], "--gpu", "h1000"], "unknown GPU 'h1000'; known: h100"),
        ([CHAIN[0], "--global_batch", "4"], "did you mean 'global_batch_size'"),
        (["nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_errors_name_the_remedy(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_it_needs_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--gpus", "8"])
    assert "name at least one configuration" in capsys.readouterr().err

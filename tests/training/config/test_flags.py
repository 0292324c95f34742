"""One reader of the command line: spelling, precedence, and the same answer to launcher, preflight and training."""

from pathlib import Path

import pytest

from cambrian_gaze.training.config import config
from cambrian_gaze.training.config.flags import read_flags, read_layered
from cambrian_gaze.training.config.layers import ConfigError
from cambrian_gaze.training.config.values import setting
from cambrian_gaze.training.launch import batch
from cambrian_gaze.training.launch.ranks import processes_wanted


@pytest.mark.parametrize("flag", ["--global-batch-size", "--global_batch_size", "--global-batch_size"])
@pytest.mark.parametrize("joined", [True, False])
def test_preflight_and_training_take_the_same_batch(flag: str, joined: bool, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("global-batch-size: 512\nper_device-train_batch_size: 8\n")
    argv = [str(path), *([f"{flag}=48"] if joined else [flag, "48"])]
    assert batch.describe(argv, 1).startswith("48 samples a step")
    training = config.load([*argv, "--use-cpu", f"--output-dir={tmp_path}"]).training
    assert (training.global_batch_size, training.per_device_train_batch_size) == (48, 8)
    assert batch.describe([str(path)], 1).startswith("512 samples")


def test_the_last_of_several_counts_and_null_takes_back(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("deepspeed: zero2.json\nnproc-per-node: 4\n")
    assert setting("deepspeed", [str(path)]) == "zero2.json"
    for nothing in ("null", "None"):
        assert setting("deepspeed", [str(path), "--deepspeed", nothing]) is None
        assert read_flags(["--top_k", nothing]) == {"top_k": None}
    assert processes_wanted([str(path)]) == 4
    assert processes_wanted([str(path), "--num-processes", "2", "--nproc_per_node=3"]) == 3
    assert read_flags(["--a", "1", "2", "--a=3", "--no-b", "--c", "--d-e", "-1"]) == {
        **{"a": "3", "b": False, "c": True, "d_e": "-1"}
    }


def test_one_key_in_two_spellings_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("top-k: 2\ntop_k: 3\n")
    with pytest.raises(ConfigError, match="'top_k' is there twice"):
        read_layered([str(path)])

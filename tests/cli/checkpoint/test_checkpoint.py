import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import TrainerState

from cambrian_gaze.cli.main import main
from cambrian_gaze.models.folders.lineage import LINEAGE, write_lineage
from cambrian_gaze.training.checkpoint.checkpoint import mark_complete
from cambrian_gaze.training.faults.bad_steps import BadSteps


def test_show_prints_and_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    lineage = write_lineage(tmp_path, "by hand")
    assert main(["checkpoint", "show", str(tmp_path), "--verify"]) == 0
    assert lineage["weights"] in capsys.readouterr().out
    assert main(["checkpoint", "show", str(tmp_path), "--json"]) == 0
    assert capsys.readouterr().out == (tmp_path / LINEAGE).read_text() + "\n"

    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    assert main(["checkpoint", "show", str(tmp_path), "--verify"]) == 1
    assert "as recorded" in capsys.readouterr().err


def test_what_has_no_lineage_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "show", str(tmp_path)]) == 1
    assert "its descent was not recorded" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["checkpoint", "shwo"])


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    """A run with two whole checkpoints, a half-written one, and one whose weights were changed."""
    for step in (2, 4, 6, 8):
        folder = tmp_path / f"checkpoint-{step}"
        (folder / "global_step").mkdir(parents=True)
        save_file({"a": torch.zeros(2)}, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
        (folder / "optimizer.pt").write_bytes(b"state")
        (folder / "data_position.json").write_text(json.dumps({"epoch": 0, "packs": 0, "step": step}))
        BadSteps(tmp_path, 20.0, 10).save(folder)
        history = [{"loss": 1.25, "step": step}, {"eval_loss": 3, "step": step}]
        TrainerState(global_step=step, max_steps=8, log_history=history).save_to_json(folder / "trainer_state.json")
        if step != 6:
            mark_complete(folder, step, world_size=2, zero_stage=2)
    save_file({"a": torch.ones(2)}, tmp_path / "checkpoint-8" / "model.safetensors")
    return tmp_path


def test_ls_and_verify(output_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "ls", str(output_dir)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows] == ["2", "4", "6", "8"]
    assert [row[-1] for row in rows] == ["whole", "whole", "interrupted", "whole"]
    assert {row[3] for row in rows} == {"1.2500"}
    assert main(["checkpoint", "verify", str(output_dir)]) == 1
    said = capsys.readouterr().err
    assert "2 of 4 are damaged" in said and "checkpoint-8: model.safetensors is not what was written" in said
    assert main(["checkpoint", "verify", str(output_dir / "checkpoint-4")]) == 0
    assert main(["checkpoint", "ls", str(output_dir / "checkpoint-4")]) == 1


def test_export_takes_the_model_alone(output_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = output_dir / "exported"
    assert main(["checkpoint", "export", str(output_dir / "checkpoint-4"), "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "config.json"}
    assert main(["checkpoint", "export", str(output_dir / "checkpoint-4"), "--out", str(out)]) == 1
    assert main(["checkpoint", "export", str(output_dir / "checkpoint-8"), "--out", str(out / "more")]) == 1
    assert "is not what was written" in capsys.readouterr().err and not (out / "more").exists()

"""A step is done where its output is whole and its own; a flag file alone says nothing."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cambrian_gaze.models.folders.lineage import parent, write_lineage
from cambrian_gaze.reproduce.commands import Options, Step, steps
from cambrian_gaze.reproduce.done import OtherRunError, unfinished
from cambrian_gaze.reproduce.local import alone
from cambrian_gaze.reproduce.preflight import check_disk, disk_needed
from cambrian_gaze.reproduce.rows import Chain, find_chain
from cambrian_gaze.training.config.config import gather
from tests.training._runs import ROOT


@pytest.fixture
def row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Chain, Options, list[Step]]:
    monkeypatch.chdir(ROOT)
    chain = find_chain("table1", "Cambrian-4B + Gaze 72+4")
    options = Options(work=tmp_path, preset="tiny", data=tmp_path / "data")
    return chain, options, steps(chain, options)


def finish(step: Step, parents: list, value: float = 1.0, at: int = 6) -> None:
    """What a training run leaves."""
    folder = step.output
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"model.weight": torch.full((3,), value)}, folder / "model.safetensors")
    save_file({"model.mm_projector.0.weight": torch.full((2,), value)}, folder / "mm_projector.safetensors")
    (folder / "config.json").write_text("{}")
    (folder / "run_config.json").write_text(json.dumps({"values": gather(step.words[1:])[0], "sources": {}}))
    lines = [{"event": "start", "attempt": 1, "from_step": 0}, {"event": "end", "attempt": 1, "step": at}]
    (folder / "train_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_lineage(folder, f"train, step {at}", parents)


def test_a_run_is_done_where_all_of_it_is_what_was_written(row) -> None:
    chain, options, every = row
    stage1, stage2 = every[:2]
    assert unfinished(stage1, every, chain, options) == "not begun"
    stage1.output.mkdir(parents=True)
    (stage1.output / "done").touch()
    assert unfinished(stage1, every, chain, options) == "not finished"
    finish(stage1, [])
    assert unfinished(stage1, every, chain, options) is None
    finish(stage2, [parent("projector", stage1.output / "mm_projector.safetensors")])
    assert unfinished(stage2, every, chain, options) is None

    log = stage1.output / "train_log.jsonl"
    with log.open("a") as file:
        file.write(json.dumps({"event": "start", "attempt": 2, "from_step": 6}) + "\n")
    assert "last attempt has not ended" in unfinished(stage1, every, chain, options)
    finish(stage1, [])
    save_file({"model.weight": torch.zeros(3)}, stage1.output / "model.safetensors")
    assert "not those that were written" in unfinished(stage1, every, chain, options)
    whole = stage2.output / "model.safetensors"
    whole.write_bytes(whole.read_bytes()[:-4])
    assert "cannot be read" in unfinished(stage2, every, chain, options)


def test_the_output_of_another_run_is_not_overwritten(row) -> None:
    chain, options, every = row
    stage1, stage2 = every[:2]
    finish(stage1, [])
    finish(stage2, [parent("projector", stage1.output / "mm_projector.safetensors")])
    finish(stage1, [], value=2.0)
    with pytest.raises(OtherRunError, match="trained from another stage1"):
        unfinished(stage2, every, chain, options)
    file = stage1.output / "run_config.json"
    other = json.loads(file.read_text())
    other["values"] |= {"learning_rate": "5e-3", "report_to": "wandb", "save_steps": "7"}
    file.write_text(json.dumps(other))
    with pytest.raises(OtherRunError, match=r"other settings \(learning_rate is '5e-3' there and 0.001 here\)"):
        unfinished(stage1, every, chain, options)


def test_a_step_that_outlives_its_command_is_not_started_again(row) -> None:
    _, options, every = row
    with alone(options.work, every[0]) as lock:
        outliving = subprocess.Popen(["sleep", "60"], pass_fds=(lock,))
    try:
        with pytest.raises(ValueError, match="stage1 is running already"), alone(options.work, every[0]):
            pass
    finally:
        outliving.kill()
        outliving.wait()
    with alone(options.work, every[0]), alone(options.work, every[1]):
        pass


def test_room_on_the_disk(row, tmp_path: Path) -> None:
    """Two checkpoints and the one being written, each with the optimizer's state, and the model."""
    _, _, every = row
    plans = [{"config": str(step.run.config), "parameters": {"decoder": [100, 50]}} for step in every[:2]]
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(plans))
    assert disk_needed(every[:1], plan) == 200 + 3 * (200 + 12 * 50)
    assert disk_needed(every[2:], plan) == 0
    check_disk(1, tmp_path / "not" / "there")
    with pytest.raises(ValueError, match="GB free; give --work"):
        check_disk(10**18, tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"values": 3}', "[" * 100_000, '{"values": NaN}'])
def test_a_run_whose_settings_cannot_be_read_is_named(row, content: str) -> None:
    chain, options, (first, *_) = row
    first.output.mkdir(parents=True)
    (first.output / "run_config.json").write_text(content)
    with pytest.raises(ValueError, match="run_config.json"):
        unfinished(first, steps(chain, options), chain, options)


@pytest.mark.parametrize("content", ["[1]\n", "3\n", "null\n", "{\n", '{"event": ["end"]}\n'])
def test_a_log_that_says_nothing_has_not_ended(row, content: str) -> None:
    chain, options, (first, *rest) = row
    finish(first, [])
    (first.output / "train_log.jsonl").write_text(content)
    (first.output / "run_config.json").unlink(missing_ok=True)
    assert "has not ended" in unfinished(first, [first, *rest], chain, options)

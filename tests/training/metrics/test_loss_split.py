"""The parts of the loss add up to the loss."""

import json
from pathlib import Path

import pytest

from cambrian_gaze.training.metrics.log import read_log
from tests.training._ranks import launch
from tests.training._runs import flags, run, write_data
from tests.training.checkpoint.test_resume import zero


@pytest.mark.parametrize("packing", [None, pytest.param(True, marks=pytest.mark.slow)], ids=["rows", "packed"])
def test_modalities_and_sources_of_each_rank_are_told_apart(tmp_path: Path, packing: bool | None) -> None:
    """A source of text alone and one of images alone: the loss of one is that of its modality, over both ranks."""
    recipe = {"name": "mix", "datasets": []}
    for name, kind in (("words", "t"), ("pictures", "i")):
        data = write_data(tmp_path / name, [kind] * 6)
        recipe["datasets"].append({"name": name, "path": str(data), "image_folder": str(data.parent)})
    (tmp_path / "mix.yaml").write_text(json.dumps(recipe))
    output = tmp_path / "run"
    changes = {"deepspeed": zero(2), "max_steps": 1, "save_strategy": "no", "packing": packing}
    changes |= {"max_length": 256, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 6}
    assert launch(2, run, flags(tmp_path / "mix.yaml", output, **changes)) == [0, 0]
    line = read_log(output)[-1]
    assert line["loss/source/words"] == line["loss/modality/text"]
    assert line["loss/source/pictures"] == line["loss/modality/image"]
    assert "loss/modality/video" not in line
    assert line["loss/modality/text"] != line["loss/modality/image"]
    parts = sorted((line["loss/source/words"], line["loss/source/pictures"]))
    assert parts[0] < line["loss"] < parts[1]
    assert 0 < line["data_wait"] < 1 and line["memory_gib"] > 0.05

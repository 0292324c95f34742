"""Plugins in training: both ranks load them, the run's folder notes them, and it goes on only with them."""

import json
import signal
from pathlib import Path

import pytest

from cambrian_gaze.models.configuration import CambrianGazeConfig
from cambrian_gaze.training.metrics.log import read_log
from tests._plugins import SOURCE, forgotten, write_plugin
from tests.training._ranks import launch
from tests.training._runs import flags, run, run_noting_errors


def test_two_ranks_train_and_go_on_with_a_plugin_of_a_yaml_file(pages: Path, tmp_path: Path) -> None:
    # The plugin lies beside the YAML file, and each rank that runs it leaves its number.
    yaml, note, output = tmp_path / "a run" / "run.yaml", tmp_path / "note", tmp_path / "out"
    source = SOURCE + f"import os\nopen({str(note)!r} + os.environ['RANK'], 'w').close()\n"
    write_plugin(yaml.parent / "my descriptor.py", source)
    yaml.write_text("plugin: my descriptor.py\ndescriptor: plugin_centre\ngaze_backend: plugin_masked\n")
    changes = {"max_steps": 3, "save_steps": 1, "stage": 2, "random_k": None}
    argv = [str(yaml), *flags(pages, output, **changes)]
    assert -signal.SIGKILL in launch(2, run, argv, 2)
    assert Path(f"{note}0").is_file() and Path(f"{note}1").is_file()

    written = json.loads((output / "run_config.json").read_text())
    (record,) = written["plugins"]
    assert record["file"] == "my descriptor.py" and len(record["sha256"]) == 64
    assert record["registers"] == ["descriptor plugin_centre", "attention backend plugin_masked"]
    saved = json.loads((output / "checkpoint-1" / "config.json").read_text())
    assert saved["plugins"] == [record] and saved["gaze"]["descriptor"] == "plugin_centre"
    with forgotten(), pytest.raises(ValueError, match=r"'plugin_centre'.*--plugin my descriptor\.py"):
        CambrianGazeConfig.from_pretrained(output / "checkpoint-1")

    without = [*argv, "--plugin", "null"]
    errors = tmp_path / "errors"
    assert launch(1, run_noting_errors, without, str(errors), ends=2) == [2]
    said = Path(f"{errors}0").read_text()
    assert "checkpoint-1 was trained with --plugin my descriptor.py (SHA-256 " in said, said
    assert "which is not given now; name the same file again" in said

    moved = write_plugin(tmp_path / "elsewhere" / "renamed.py", source)
    assert launch(2, run, [*without, "--plugin", str(moved)]) == [0, 0]
    assert [line["step"] for line in read_log(output)] == [1, 2, 3]
    assert json.loads((output / "config.json").read_text())["plugins"][0]["file"] == "renamed.py"

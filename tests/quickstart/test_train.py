"""Starting training runs: what they print is kept, and a failure is told with its end."""

import os
import sys

import pytest

from cambrian_gaze.quickstart.plan import smoke_plan
from cambrian_gaze.quickstart.run import main
from cambrian_gaze.quickstart.train import TrainingFailed, train


def pretend(monkeypatch, code):
    """Replace the launcher by a program."""
    monkeypatch.setattr(
        "cambrian_gaze.training.launch.ranks.launch_command",
        lambda processes, argv: [sys.executable, "-c", code, *argv],
    )


def test_output_is_shown_and_kept(monkeypatch, tmp_path, capsys):
    pretend(monkeypatch, "import sys; print('step 1 ▍ of', sys.argv[1].rpartition('/')[2])")
    train(smoke_plan(), "dense", tmp_path, "cpu")
    text = "step 1 ▍ of quickstart_dense.yaml\n"
    assert (tmp_path / "dense" / "console.log").read_text(encoding="utf-8") == text.replace("\n", os.linesep)
    assert text in capsys.readouterr().err


def test_a_failure_is_told_with_its_end(monkeypatch, tmp_path):
    pretend(monkeypatch, "import sys; print('\\rstep 1\\rstep 2'); sys.exit('out of luck')")
    with pytest.raises(TrainingFailed, match=r"(?s)exit code 1.*console\.log.*step 2\nout of luck"):
        train(smoke_plan(), "gaze", tmp_path, "cpu")


def test_the_command_fails_without_a_traceback(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    assert main(["--smoke", "--output_dir", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert "choose another --output_dir" in message and "Traceback" not in message

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cambrian_gaze.cli.main import main
from cambrian_gaze.models.lineage import LINEAGE, write_lineage


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

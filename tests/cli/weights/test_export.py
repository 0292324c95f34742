from pathlib import Path

import pytest

from cambrian_gaze.cli.main import main


def test_export_and_its_refusal(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = ["export", "--model", str(model_dir)]
    assert main([*source, "--format", "bf16", "--out", str(tmp_path / "bf16")]) == 0
    assert "MB of weights" in capsys.readouterr().out
    assert (tmp_path / "bf16" / "model.safetensors").is_file()
    assert main([*source, "--format", "llava", "--out", str(tmp_path / "llava")]) == 1
    assert "context tokens" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*source, "--format", "gguf", "--out", str(tmp_path / "gguf")])

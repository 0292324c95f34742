from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cambrian_gaze import CambrianGazeForConditionalGeneration
from cambrian_gaze.cli.main import main
from cambrian_gaze.training.checkpoint.projector import load_projector
from tests.models._checkpoints import SMALL, VISION, write_siglip, write_upstream


def test_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_siglip(tmp_path / "siglip")
    write_upstream(tmp_path / "up", mm_use_im_newline_token=True, image_aspect_ratio="anyres", miv_token_len=4)
    command = ["convert", "from-cambrian", str(tmp_path / "up"), "--out", str(tmp_path / "model")]
    command += ["--vision", str(tmp_path / "siglip")]
    for choice in (["--image_newline", "drop"], ["--anyres", "base"], ["--pooling", "native"]):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 2
        assert " ".join(choice) in capsys.readouterr().err
        command += choice
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "note: model.image_newline is dropped" in said and "0 missing, 0 unexpected" in said
    assert main(["convert", "to-cambrian", str(tmp_path / "model"), "--out", str(tmp_path / "back")]) == 0
    back = load_file(tmp_path / "back" / "model.safetensors")
    for file in (tmp_path / "up").glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            assert torch.equal(back.pop(name), tensor)
    assert not back


def test_a_projector_alone_becomes_an_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    upstream = write_upstream(tmp_path / "up")
    path, out = tmp_path / "mm_projector.bin", tmp_path / "mm_projector.safetensors"
    torch.save({f"model.mm_projector.{n}": t for n, t in upstream.projector.state_dict().items()}, path)
    command = ["convert", "from-cambrian", str(path), "--out", str(out)]
    assert main([*command, "--dry_run"]) == 0
    assert not out.exists()
    assert main(command) == 0
    assert f"wrote {out}" in capsys.readouterr().out
    text = {"model_type": "qwen2", **SMALL}
    vision = {"model_type": "siglip_vision_model", **VISION}
    model = CambrianGazeForConditionalGeneration.from_preset("tiny", text_config=text, vision_config=vision)
    assert "holds no context tokens" in load_projector(model, out)[0]
    assert torch.equal(model.model.mm_projector[2].weight, upstream.projector[2].weight)
    with pytest.raises(SystemExit):
        main(command)
    assert "exists; choose another name" in capsys.readouterr().err

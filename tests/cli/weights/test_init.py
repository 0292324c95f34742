import json
from pathlib import Path

import pytest

from cambrian_gaze import CambrianGazeForConditionalGeneration
from cambrian_gaze.cli.main import main
from tests.cli.test_main import run_light
from tests.models._checkpoints import write_language_model, write_siglip


@pytest.mark.parametrize("command", ["init", "convert", "convert from-cambrian", "convert to-cambrian"])
def test_help_waits_for_nothing_heavy(command: str) -> None:
    output, seconds, heavy = run_light(*command.split(), "--help")
    assert output.startswith(f"usage: cambrian-gaze {command}")
    assert seconds < 1 and not heavy


@pytest.fixture
def backbones(tmp_path: Path) -> list[str]:
    write_language_model(tmp_path / "llm")
    write_siglip(tmp_path / "siglip")
    return ["--llm", str(tmp_path / "llm"), "--vision", str(tmp_path / "siglip")]


def test_a_folder_and_a_report(backbones: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, report = tmp_path / "model", tmp_path / "keys.json"
    overrides = '{"mm_projector_type": "avgpool2_mlp2x_gelu"}'
    command = ["init", *backbones, "--out", str(out), "--json", str(report), "--model_overrides", overrides]
    assert main([*command, "--dry_run"]) == 0
    assert not out.exists()
    assert "0 missing, 0 unexpected, 0 of another shape (nothing was written)" in capsys.readouterr().out
    assert main([*command, "--dtype", "bfloat16", "--max_shard_size", "0.00002"]) == 0
    said = capsys.readouterr().out
    assert "new          4  normal with the decoder's initializer_range, biases zero" in said
    assert f"0 of another shape; wrote {out}" in said
    keys = json.loads(report.read_text())
    assert keys["summary"] in said
    assert keys["loaded"]["model.language_model.norm.weight"] == {"from": "language model", "name": "model.norm.weight"}
    assert (out / "model.safetensors.index.json").is_file()
    assert CambrianGazeForConditionalGeneration.from_pretrained(out).config.mm_projector_type == "avgpool2_mlp2x_gelu"


def test_what_does_not_fit_ends_with_its_status(
    backbones: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["init", *backbones, "--out", str(tmp_path / "model")]
    for extra, said in (
        (["--preset", "4b"], "the backbones are not those of the preset '4b': the language model's hidden_size is 32"),
        (["--preset", "5b"], "unknown preset '5b'"),
        (["--model_overrides", "{"], "--model_overrides is not JSON"),
        (["--model_overrides", "[]"], "--model_overrides must be a JSON object"),
        (["--model_overrides", '{"text_config": {}}'], "text_config come from the backbones"),
        (["--max_shard_size", "0"], "'0' is no positive number of gigabytes"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*command, *extra])
        assert stop.value.code == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    changed = json.loads((tmp_path / "llm" / "config.json").read_text()) | {"num_hidden_layers": 3}
    (tmp_path / "llm" / "config.json").write_text(json.dumps({**changed, "layer_types": ["full_attention"] * 3}))
    assert main([*command, "--dry_run"]) == 1
    assert "missing: model.language_model.layers.2" in capsys.readouterr().out

"""Configurations of adapters: what peft users write is taken, what would take for ever is refused in time."""

import json
import time
from pathlib import Path

import pytest

from cambrian_gaze import CambrianGazeForConditionalGeneration
from cambrian_gaze.models.folders.adapter_check import check_adapter, check_patterns
from cambrian_gaze.models.folders.folder_check import FolderError

PLACES = "self_attn|attention|attn|mlp|feed_forward|ffn|dense"
LEAVES = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
USUAL = [
    r"^(?!.*(vision_tower|mm_projector|lm_head)).*layers\..*\.(q_proj|k_proj|v_proj|o_proj).*",
    rf"(?:.*?(?:language|text).*?(?:{PLACES}).*?(?:{LEAVES}).*?)"
    rf"|(?:\bmodel\.layers\.[\d]{{1,}}\.(?:{PLACES})\.(?:(?:{LEAVES})))",
    r".*language_model.*\.layers\.\d+\.(self_attn|mlp)\.\w+_proj",
    "all-linear",
]
SLOW = [".*.*.*.*.*.*x", r"(?=.*gate_proj).*.*.*.*.*.*.*.*x"]
"""More than a model's names can be matched with."""


def adapter(folder: Path, **settings: object) -> Path:
    (folder / "adapter_model.safetensors").touch()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8} | settings))
    return folder


@pytest.fixture(scope="module")
def names() -> list[str]:
    return [name for name, _ in CambrianGazeForConditionalGeneration.from_preset("tiny").named_modules()]


@pytest.mark.parametrize("field", ["target_modules", "exclude_modules"])
@pytest.mark.parametrize("pattern", USUAL)
def test_usual_patterns(tmp_path: Path, names: list[str], pattern: str, field: str) -> None:
    check_adapter(adapter(tmp_path, **{field: pattern}))
    check_patterns(tmp_path, names)


@pytest.mark.parametrize(("field", "pattern"), list(zip(["target_modules", "exclude_modules"], SLOW, strict=True)))
def test_patterns_that_take_for_ever_are_tried_out_first(
    tmp_path: Path, names: list[str], monkeypatch: pytest.MonkeyPatch, field: str, pattern: str
) -> None:
    monkeypatch.setattr("cambrian_gaze.models.folders.pattern_probe.SECONDS", 1)
    check_adapter(adapter(tmp_path, **{field: pattern}))
    began = time.monotonic()
    with pytest.raises(FolderError, match="may take for ever; give the modules as a list"):
        check_patterns(tmp_path, [*names, *(f"model.language_model.layers.{n}.mlp.gate_proj" for n in range(500))])
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("pattern", ["((a+)+)+$", "(a|a)*b", "x(a){2,}", ".*" * 13])
def test_repeated_groups_and_too_many_repeats_are_not_tried(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(FolderError, match="may take for ever"):
        check_adapter(adapter(tmp_path, target_modules=pattern))


@pytest.mark.parametrize("value", [True, False, "gaussian", "orthogonal"])
def test_ways_to_begin_that_change_no_base(tmp_path: Path, value: object) -> None:
    check_adapter(adapter(tmp_path, init_lora_weights=value))


@pytest.mark.parametrize("value", ["pissa", "eva", "olora", "loftq", 1])
def test_ways_to_begin_that_change_the_base(tmp_path: Path, value: object) -> None:
    with pytest.raises(FolderError, match="init_lora_weights"):
        check_adapter(adapter(tmp_path, init_lora_weights=value))

"""The dense model in published layouts: loaded by transformers' own classes, the same logits, ids and pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor
from cambrian_gaze.models.export import export
from cambrian_gaze.models.folders.lineage import read_lineage, weights_digest, write_lineage

DENSE = {"gaze": {"image": {"region_size": [1, 2, 2], "top_k": 2}, "num_context_tokens": 0}}
LAYOUTS = {"llava": "LlavaForConditionalGeneration", "deepseek_vl": "DeepseekVLForConditionalGeneration"}


def saved(folder: Path, dtype: torch.dtype = torch.float32, **overrides) -> Path:
    model = CambrianGazeForConditionalGeneration.from_preset("tiny", **overrides)
    for name, parameter in model.named_parameters():  # norms that do something, features far from zero
        if "layernorm" in name or "norm.weight" in name or "layer_norm" in name:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    model.to(dtype).save_pretrained(folder)
    CambrianGazeProcessor.from_preset("tiny", **overrides).save_pretrained(folder)
    return folder


def messages() -> list[dict]:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    image = {"type": "image", "image": Image.fromarray(pixels)}
    return [{"role": "user", "content": [image, {"type": "text", "text": "Read B3."}]}]


def inputs_of(folder: Path, **options):
    return AutoProcessor.from_pretrained(folder).apply_chat_template(
        messages(), tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt", **options
    )


@pytest.mark.parametrize(("layout", "layer"), [*((layout, None) for layout in LAYOUTS), ("llava", -1), ("llava", -2)])
def test_transformers_reads_it_and_computes_the_same(layout: str, layer: int | None, tmp_path: Path) -> None:
    source = saved(tmp_path / "gaze", **DENSE, vision_feature_layer=layer)
    write_lineage(source, "by hand")
    export(layout, source, tmp_path / layout)
    own = CambrianGazeForConditionalGeneration.from_pretrained(source).eval()
    dense = AutoModelForImageTextToText.from_pretrained(tmp_path / layout).eval()
    assert type(dense).__name__ == LAYOUTS[layout]

    given, theirs = inputs_of(source), inputs_of(tmp_path / layout)
    assert torch.equal(given["input_ids"], theirs["input_ids"])
    torch.testing.assert_close(theirs["pixel_values"], given["pixel_values"], rtol=0, atol=1e-6)
    with torch.no_grad():
        expected = own(**given, gaze={"keep_ratio": 1.0}).logits
        torch.testing.assert_close(dense(**theirs).logits, expected, rtol=0, atol=2e-5)
        assert (own(**given).logits - expected).abs().max() > 1e-3, "K=2 is another function"
    said = own.generate(**given, gaze={"keep_ratio": 1.0}, do_sample=False, max_new_tokens=8)
    assert torch.equal(dense.generate(**theirs, do_sample=False, max_new_tokens=8), said)

    lineage = read_lineage(tmp_path / layout)
    assert lineage["made_by"] == f"export, {layout}" and lineage["weights"] == weights_digest(tmp_path / layout)
    assert lineage["parents"][0]["lineage"]["made_by"] == "by hand"


def test_deepseek_vl_has_the_very_same_tensors(tmp_path: Path) -> None:
    source = saved(tmp_path / "gaze", torch.bfloat16, **DENSE)
    export("deepseek_vl", source, tmp_path / "out")
    ours, theirs = load_file(source / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert {t.dtype for t in theirs.values()} == {torch.bfloat16}
    assert sorted(t.sum().item() for t in ours.values()) == sorted(t.sum().item() for t in theirs.values())
    with torch.no_grad():
        dense = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto").eval()
        own = CambrianGazeForConditionalGeneration.from_pretrained(source, dtype="auto").eval()
        features = dense.model.get_image_features(inputs_of(source)["pixel_values"].bfloat16()).pooler_output
        assert torch.equal(features, own.model.get_image_features(inputs_of(source)["pixel_values"]))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({}, "4 context tokens per image, which as queries see their own image alone"),
        ({**DENSE, "mm_projector_type": "conv3x3_mlp2x_gelu"}, "conv3x3_mlp2x_gelu shrinks the grid"),
    ],
)
def test_what_a_dense_layout_cannot_say_is_refused(overrides: dict, said: str, tmp_path: Path) -> None:
    source = saved(tmp_path / "gaze", **overrides)
    for layout in LAYOUTS:
        with pytest.raises(ValueError, match=said):
            export(layout, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_and_a_full_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown format 'gguf'"):
        export("gguf", tmp_path, tmp_path / "out")
    source = saved(tmp_path / "gaze", **DENSE)
    with pytest.raises(ValueError):
        export("llava", source, source)

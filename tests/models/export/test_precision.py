"""Other numbers: what was exported loads with the Auto classes and generates; what is quantised is the decoder."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from cambrian_gaze.models.export import export
from cambrian_gaze.models.folders.lineage import read_lineage
from tests.models.export.test_dense import inputs_of, saved

TEXT = {
    "model_type": "qwen3",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,
}
"""Widths of whole NF4 blocks."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("precision") / "gaze", text_config=TEXT)


def load(folder: Path):
    return AutoModelForImageTextToText.from_pretrained(folder, dtype="auto").eval()


def answer(model, folder: Path) -> torch.Tensor:
    given = inputs_of(folder)
    return model.generate(**given, do_sample=False, max_new_tokens=5)[:, given["input_ids"].shape[1] :]


@torch.no_grad()
def logits(model, folder: Path) -> torch.Tensor:
    return model(**inputs_of(folder)).logits.float()


def test_bf16_is_the_model_in_one_file(source: Path, tmp_path: Path) -> None:
    export("bf16", source, tmp_path / "bf16")
    model = load(tmp_path / "bf16")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    own = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.bfloat16).eval()
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), model.parameters(), strict=True))
    assert torch.equal(answer(model, tmp_path / "bf16"), answer(own, source))
    assert [p.name for p in (tmp_path / "bf16").glob("*.safetensors")] == ["model.safetensors"]
    assert read_lineage(tmp_path / "bf16")["made_by"] == "export, bf16"
    export("fp32", source, tmp_path / "fp32")
    assert {p.dtype for p in load(tmp_path / "fp32").parameters()} == {torch.float32}


@pytest.mark.parametrize(("kind", "package", "off"), [("int8", "torchao", 0.05), ("int4", "bitsandbytes", 0.5)])
def test_a_quantised_decoder_answers(kind: str, package: str, off: float, source: Path, tmp_path: Path) -> None:
    pytest.importorskip(package)
    export(kind, source, tmp_path / kind)
    model = load(tmp_path / kind)
    decoder, tower = model.model.language_model.layers[0].mlp.up_proj, model.model.vision_tower
    assert type(decoder.weight) is not torch.nn.Parameter
    whole = [*tower.parameters(), *model.model.mm_projector.parameters(), model.lm_head.weight]
    assert {type(p) for p in whole} == {torch.nn.Parameter}
    expected = logits(load(source), source)
    error = (logits(model, tmp_path / kind) - expected).std() / expected.std()
    assert 0 < error < off
    assert answer(model, tmp_path / kind).shape == (1, 5)
    size = (tmp_path / kind / "model.safetensors").stat().st_size
    assert size < 0.5 * (source / "model.safetensors").stat().st_size
    with pytest.raises(ValueError, match="quantised already"):
        export("bf16", tmp_path / kind, tmp_path / "again")


def test_widths_that_four_bits_do_not_fit_are_named(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    source = saved(tmp_path / "gaze")
    with pytest.raises(ValueError, match="multiple of 64, but the decoder has 96"):
        export("int4", source, tmp_path / "out")
    assert not (tmp_path / "out").exists()

"""Models made of published backbones: every key accounted for, every value as it was."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, SiglipVisionModel

from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor
from cambrian_gaze.models.conversion import backbones
from cambrian_gaze.models.conversion.initialise import initialise
from cambrian_gaze.models.conversion.shards import Shards, file_sha256
from cambrian_gaze.models.presets import QWEN2_5_7B, QWEN3_4B, SIGLIP2_SO400M_16_384
from tests.models._checkpoints import (
    GAZE,
    TEMPLATE,
    make,
    qwen_shapes,
    siglip_shapes,
    weights,
    write_language_model,
    write_siglip,
    write_sparse,
    write_tokenizer,
)
from tests.models.conftest import ask, noise

PLACEHOLDERS = ("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")


@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
def test_the_copies_compute_what_the_originals_do(backbone: dict, kind: str, tmp_path: Path) -> None:
    out = tmp_path / "model"
    report = make(backbone, out, kind, max_shard_size=40_000)
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    assert len(list(out.glob("model-*.safetensors"))) > 2
    model, info = AutoModelForImageTextToText.from_pretrained(out, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids, pixels = torch.randint(0, 500, (2, 11)), torch.randn(2, 3, 32, 32)
    language_model, siglip = backbone[kind], backbone["siglip"]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, language_model(ids).logits)
        tower = model.model.vision_tower
        assert torch.equal(tower(pixels).last_hidden_state, siglip.vision_model(pixels).last_hidden_state)
    tied = model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert tied is (kind == "qwen3")


def test_every_key_is_reported(backbone: dict, tmp_path: Path) -> None:
    root = backbone["root"]
    report = make(backbone, tmp_path / "model", "qwen2").to_dict()
    read = [entry["name"] for entry in report["loaded"].values()]
    ignored = [name.split(": ", 1)[1] for name in report["ignored"]]
    assert sorted(read + ignored) == sorted([*Shards(root / "qwen2"), *Shards(root / "siglip")])
    assert sorted([*report["loaded"], *report["new"]]) == sorted(weights(tmp_path / "model"))
    projector = {f"model.mm_projector.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")}
    assert set(report["new"]) == {"model.gaze.context_tokens", *projector}
    text = {name for name in ignored if name.startswith(("text_model.", "logit_"))}
    assert set(ignored) == text | {name for name in ignored if name.startswith("vision_model.head.")} and text


def test_new_parameters_are_as_documented_and_seeded(backbone: dict, tmp_path: Path) -> None:
    conv = {**GAZE, "mm_projector_type": "conv3x3_mlp2x_gelu", "context_tokens_std": 3.0}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make(backbone, tmp_path / name, seed=seed, overrides=conv)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    changed = {name for name in a if not torch.equal(a[name], c[name])}
    assert changed == {"model.mm_projector.0.weight", "model.mm_projector.2.weight", "model.gaze.context_tokens"}
    assert a["model.mm_projector.2.weight"].std().item() == pytest.approx(0.2, rel=0.1)
    assert a["model.gaze.context_tokens"].std().item() == pytest.approx(3.0, rel=0.2)
    assert not a["model.mm_projector.0.bias"].any() and not a["model.mm_projector.conv.bias"].any()
    kernel = torch.zeros(16, 16, 3, 3)
    kernel[range(16), range(16), 1:, 1:] = 0.25
    assert torch.equal(a["model.mm_projector.conv.weight"], kernel)


def test_the_folder_trains_and_generates(backbone: dict, tmp_path: Path) -> None:
    make(backbone, tmp_path / "model")
    model = CambrianGazeForConditionalGeneration.from_pretrained(tmp_path / "model")
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    assert isinstance(processor, CambrianGazeProcessor)
    inputs = processor.apply_chat_template(ask(noise(0)), tokenize=True, add_generation_prompt=True)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    for name in ("model.gaze.context_tokens", "model.mm_projector.0.weight"):
        assert model.get_parameter(name).grad.abs().sum() > 0
    out = model.eval().generate(**inputs, max_new_tokens=3, do_sample=False, return_gaze=True)
    assert out.gaze.regions.shape[-1] == 2
    # Wherever the language model wants generation to end, and where an answer in ChatML ends.
    assert backbone["qwen3"].generation_config.eos_token_id == 3
    assert model.generation_config.eos_token_id == [3, processor.tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_chat_templates_are_kept(backbone: dict, tmp_path: Path) -> None:
    make(backbone, tmp_path / "model")
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    messages = [{"role": "user", "content": "hi"}]
    assert processor.apply_chat_template(messages) == "<|im_start|>user\nhi<|im_end|>\n"
    assert processor.apply_chat_template(messages, chat_template="language_model") == "[user] hi"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.chat_template["language_model"] == TEMPLATE
    processor.save_pretrained(tmp_path / "again")
    again = AutoProcessor.from_pretrained(tmp_path / "again")
    assert again.apply_chat_template(messages, chat_template="language_model") == "[user] hi"


@pytest.mark.parametrize(("rows", "grown"), [(576, 0), (509, 3)])
def test_placeholders_take_spare_rows_before_the_vocabulary_grows(rows: int, grown: int, tmp_path: Path) -> None:
    language_model = write_language_model(tmp_path / "llm", "qwen2", without=PLACEHOLDERS, vocab_size=rows)
    write_siglip(tmp_path / "siglip")
    report = make({"root": tmp_path}, tmp_path / "model", "llm")
    assert report.notes[0] == "the tokenizer got <|image_pad|>, <|video_pad|>, <|vision_pad|>"
    model = CambrianGazeForConditionalGeneration.from_pretrained(tmp_path / "model")
    config = model.config
    assert sorted([config.image_token_id, config.video_token_id, config.context_token_id]) == [509, 510, 511]
    for own, given in (
        (model.get_input_embeddings(), language_model.get_input_embeddings()),
        (model.lm_head, language_model.lm_head),
    ):
        assert own.weight.shape[0] == rows + grown
        assert torch.equal(own.weight[:rows], given.weight)
    assert any("grow from 509 to 512" in note for note in report.notes) is bool(grown)


@pytest.mark.parametrize("prefix", ["", "vision_model."])
def test_a_tower_is_read_by_either_of_its_names(backbone: dict, prefix: str, tmp_path: Path) -> None:
    tower = SiglipVisionModel(backbone["siglip"].config.vision_config)
    tower.load_state_dict(backbone["siglip"].vision_model.state_dict())
    tower.save_pretrained(tmp_path / "tower")
    stored = load_file(tmp_path / "tower" / "model.safetensors")
    stored = {prefix + name.removeprefix("vision_model."): tensor for name, tensor in stored.items()}
    save_file(stored, tmp_path / "tower" / "model.safetensors", metadata={"format": "pt"})
    initialise(tmp_path / "model", str(backbone["root"] / "qwen3"), str(tmp_path / "tower"), overrides=GAZE)
    built = CambrianGazeForConditionalGeneration.from_pretrained(tmp_path / "model").model.vision_tower
    pixels = torch.randn(1, 3, 32, 32)
    assert torch.equal(built(pixels).last_hidden_state, tower.eval()(pixels).last_hidden_state)


def test_a_copy_of_a_tied_head_is_left_out_unless_it_is_none(tmp_path: Path) -> None:
    model = write_language_model(tmp_path / "llm")
    write_siglip(tmp_path / "siglip")
    file = next((tmp_path / "llm").glob("model-00001*"))
    index = tmp_path / "llm" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["lm_head.weight"] = file.name
    index.write_text(json.dumps(content))
    embeddings = model.get_input_embeddings().weight.detach()
    save_file({**load_file(file), "lm_head.weight": embeddings.clone()}, file)
    report = make({"root": tmp_path}, tmp_path / "model", "llm")
    assert report.ignored["language model: lm_head.weight"] == "tied to the token embeddings"
    save_file({**load_file(file), "lm_head.weight": embeddings + 1}, file)
    with pytest.raises(ValueError, match="is not its token embeddings"):
        make({"root": tmp_path}, tmp_path / "other", "llm")


def test_all_is_written_in_one_type(backbone: dict, tmp_path: Path) -> None:
    report = make(backbone, tmp_path / "model", dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in weights(tmp_path / "model").values()} == {torch.bfloat16}
    assert any("float32 are written as torch.bfloat16" in note for note in report.notes)
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "model", dtype="auto").dtype == torch.bfloat16


def write_full_size(root: Path, preset: str) -> tuple[Path, Path]:
    """Both backbones of a preset in their published layout, without content."""
    config, shards = (QWEN3_4B, 3) if preset == "4b" else (QWEN2_5_7B, 4)
    llm, siglip = root / "llm", root / "siglip"
    write_sparse(llm, qwen_shapes(config, biased=preset == "7b"), shards)
    (llm / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}))
    write_tokenizer(llm)
    write_sparse(siglip, siglip_shapes(), 1, "F32")
    vision = {k: v for k, v in SIGLIP2_SO400M_16_384.items() if k != "model_type"}
    config = {"model_type": "siglip", "vision_config": vision, "text_config": {}}
    (siglip / "config.json").write_text(json.dumps(config))
    return llm, siglip


@pytest.mark.parametrize(("preset", "loaded"), [("4b", 398 + 437), ("7b", 339 + 437)])
def test_full_size_backbones_fit_to_the_last_key(preset: str, loaded: int, tmp_path: Path) -> None:
    llm, siglip = write_full_size(tmp_path, preset)
    report = initialise(tmp_path / "out", str(llm), str(siglip), preset=preset, dry_run=True)
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    assert (len(report.loaded), len(report.new)) == (loaded, 5)
    assert len(report.loaded) + len(report.ignored) == len(Shards(llm)) + len(Shards(siglip))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llm", "siglip"]
    other = "7b" if preset == "4b" else "4b"
    with pytest.raises(ValueError, match="not those of the preset .* hidden_size is"):
        initialise(tmp_path / "out", str(llm), str(siglip), preset=other, dry_run=True)


def test_a_hub_id_is_read_from_the_cache(backbone: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout of the hub's cache, offline: files are links to blobs that are named by their SHA-256."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name, source in (("Qwen/Small", "qwen3"), ("google/small", "siglip")):
        repo = tmp_path / "cache" / f"models--{name.replace('/', '--')}"
        snapshot = repo / "snapshots" / ("a" * 40)
        for folder in (snapshot, repo / "blobs", repo / "refs"):
            folder.mkdir(parents=True)
        (repo / "refs" / "main").write_text("a" * 40)
        for file in (backbone["root"] / source).iterdir():
            digest = file_sha256(file)
            (repo / "blobs" / digest).write_bytes(file.read_bytes())
            os.symlink(repo / "blobs" / digest, snapshot / file.name)
    assert Shards(backbones.resolve("google/small")).check_hashes() == 1
    initialise(tmp_path / "model", "Qwen/Small", "google/small", overrides=GAZE, progress=False)
    assert weights(tmp_path / "model").keys() >= {"model.language_model.norm.weight"}
    blob = (snapshot / "model.safetensors").resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    assert hashlib.sha256(content).hexdigest() != blob.name
    with pytest.raises(ValueError, match="damaged or changed"):
        initialise(tmp_path / "other", "Qwen/Small", "google/small", overrides=GAZE, progress=False)
    with pytest.raises(ValueError, match="is no local folder and cannot be had from the Hub"):
        initialise(tmp_path / "other", "Qwen/Absent", "google/small", overrides=GAZE, progress=False)


MEASURED = """
import resource, sys
from cambrian_gaze.models.conversion.initialise import initialise
from transformers import AutoTokenizer, Qwen3ForCausalLM, SiglipModel
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
out, llm, siglip, small_llm, small_siglip = sys.argv[1:]
initialise(out + "-small", small_llm, small_siglip, progress=False)
before = peak()
initialise(out, llm, siglip, progress=False, max_shard_size=200_000_000)
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_holds_a_tensor_and_not_the_model(tmp_path: Path) -> None:
    config = {**QWEN3_4B, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 12, "head_dim": 64}
    config |= {"num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 32768}
    shapes = qwen_shapes(config, biased=False)
    write_sparse(tmp_path / "llm", shapes, 4)
    (tmp_path / "llm" / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}))
    write_tokenizer(tmp_path / "llm")
    write_language_model(tmp_path / "small")
    write_siglip(tmp_path / "siglip")
    size = sum(2 * torch.Size(shape).numel() for shape in shapes.values())
    largest = 2 * 32768 * 1024
    assert size > 400e6
    folders = ["out", "llm", "siglip", "small", "siglip"]
    command = [sys.executable, "-c", MEASURED, *(str(tmp_path / name) for name in folders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert sum(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors")) > size
    assert int(done.stdout.split()[-1]) * 1024 < 2 * largest + 30e6

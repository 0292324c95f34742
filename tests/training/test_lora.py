"""LoRA runs: what trains and is saved, exact resume, and a merged model that is the base with its adapter."""

import json
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from cambrian_gaze import CambrianGazeForConditionalGeneration, CambrianGazeProcessor
from cambrian_gaze.cli.main import main
from cambrian_gaze.models.adapters import load_adapted, merge_adapter
from cambrian_gaze.models.folders.lineage import read_lineage
from cambrian_gaze.training.build import build_model, build_shapes
from cambrian_gaze.training.config.arguments import ModelArguments, TrainingArguments
from cambrian_gaze.training.config.gaze_arguments import GazeArguments
from cambrian_gaze.training.config.lora_arguments import LINEAR_LAYERS, LoraArguments
from cambrian_gaze.training.metrics.flops import FlopsModel
from cambrian_gaze.training.metrics.log import read_log
from cambrian_gaze.training.optimizer import CONTEXT, DECODER, PROJECTOR, module_of
from tests.training._ranks import launch
from tests.training._runs import TINY, flags, run
from tests.training.checkpoint.test_resume import exact, zero

WIDE = {
    "model_type": "qwen3",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "tie_word_embeddings": False,
    "initializer_range": 0.1,
}
"""Widths of whole NF4 blocks."""
LORA = {"preset": None, "model_overrides": None, "lora_enable": True, "lora_r": 4, "lora_alpha": 16}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model with its processor: 4×4 visual tokens, K = 2 of 16 regions."""
    folder = tmp_path_factory.mktemp("base")
    overrides = json.dumps({**json.loads(TINY["model_overrides"]), "text_config": WIDE})
    model, processor = build(folder, None, preset="tiny", model_overrides=overrides)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def build(output: Path, lora: LoraArguments | None, gaze: dict | None = None, stage: int = 2, **model: object):
    torch.manual_seed(0)
    training = TrainingArguments(output_dir=str(output), use_cpu=True, stage=stage)
    return build_model(ModelArguments(**model), GazeArguments(**(gaze or {})), training, lora)


def command(pages: Path, base: Path, output: Path, **changes: object) -> list[str]:
    return flags(pages, output, **{**LORA, "model_name_or_path": base, **changes})


@pytest.fixture(scope="module")
def tuned(pages: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base trained under another K; context tokens learn fast, so that their loss would show."""
    folder = tmp_path_factory.mktemp("tuned")
    assert run(command(pages, base, folder, top_k=3, context_tokens_lr=0.1, random_k=None, progressive=False)) == 0
    return folder


def answer(model, processor) -> tuple[list[int], torch.Tensor]:
    """Tokens of an answer about two pictures, and the regions that each of them looked at: [T, L, H, K]."""
    content = [
        {"type": "image", "image": Image.radial_gradient("L").convert("RGB")},
        {"type": "image", "image": Image.linear_gradient("L").convert("RGB")},
        {"type": "text", "text": "Read B3 7"},
    ]
    chat = [{"role": "user", "content": content}]
    inputs = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True)
    out = model.generate(**inputs, do_sample=False, min_new_tokens=12, max_new_tokens=12, return_gaze=True)
    return out.sequences[0].tolist(), out.gaze.regions[0]


def test_the_merged_model_answers_and_looks_as_base_and_adapter_do(base: Path, tuned: Path, tmp_path: Path) -> None:
    processor = CambrianGazeProcessor.from_pretrained(tuned)
    merged = CambrianGazeForConditionalGeneration.from_pretrained(merge_adapter(base, tuned, tmp_path / "merged"))
    adapted = load_adapted(base, tuned)
    own = CambrianGazeForConditionalGeneration.from_pretrained(base)
    assert adapted.config.gaze_config.image.top_k == merged.config.gaze_config.image.top_k == 3
    assert own.config.gaze_config.image.top_k == 2
    tokens, regions = answer(adapted, processor)
    again, looked = answer(merged.eval(), processor)
    assert tokens == again and torch.equal(regions, looked)
    assert regions.shape[-1] == 3 and len(set(regions[1:].flatten().tolist())) > 3
    unadapted, elsewhere = answer(own, processor)
    assert tokens != unadapted and not torch.equal(regions[..., :2], elsewhere)
    for model in (adapted, merged):
        assert not torch.equal(model.model.gaze.context_tokens, own.model.gaze.context_tokens)
    names = {name for name, _ in merged.named_parameters()}
    assert names == {name for name, _ in own.named_parameters()}
    parents = read_lineage(tmp_path / "merged")["parents"]
    assert [one["role"] for one in parents] == ["model", "adapter"]
    assert "train, stage 2, step 8" in parents[1]["lineage"]["made_by"]


def test_an_adapter_holds_what_trained_and_nothing_else(base: Path, tuned: Path) -> None:
    tensors = load_file(tuned / "adapter_model.safetensors")
    low_rank = [name for name in tensors if "lora_" in name]
    assert len(low_rank) == 2 * len(LINEAR_LAYERS) * WIDE["num_hidden_layers"]
    assert {module_of(name) for name in low_rank} == {DECODER}
    assert {module_of(name) for name in tensors.keys() - set(low_rank)} == {PROJECTOR, CONTEXT}
    assert not (tuned / "model.safetensors").exists()
    assert not list(tuned.rglob("README.md")), "peft's has nothing filled in"
    (parent,) = read_lineage(tuned)["parents"]
    assert (parent["role"], parent["name"]) == ("model", str(base))


def test_a_card_of_the_user_stays_as_it_is(pages: Path, base: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    assert run(command(pages, base, tmp_path, max_steps=1, save_strategy="no")) == 0
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)], ids=["1 rank", "ZeRO-2"])
def test_kill_and_resume_is_exact(pages: Path, base: Path, tmp_path: Path, ranks: int) -> None:
    """Dropout included. The checkpoint holds no frozen weights."""
    changes = {"lora_dropout": 0.2, **({"deepspeed": zero(2)} if ranks > 1 else {})}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert launch(ranks, run, command(pages, base, whole, **changes)) == [0] * ranks
    assert -signal.SIGKILL in launch(ranks, run, command(pages, base, broken, **changes), 6)
    size = sum(file.stat().st_size for file in (broken / "checkpoint-3").glob("**/*model*") if file.is_file())
    assert size < 0.5 * (base / "model.safetensors").stat().st_size
    assert launch(ranks, run, command(pages, base, broken, **changes)) == [0] * ranks
    assert exact(broken) == exact(whole)
    assert [line["attempt"] for line in read_log(broken)] == [1, 1, 1, 2, 2, 2, 2, 2]
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (whole, broken))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_checkpointing_of_activations_changes_nothing(pages: Path, base: Path, tmp_path: Path) -> None:
    """The decoder's input needs no gradient where a batch is text alone, and the adapters still learn."""
    common = {"max_steps": 2, "lora_dropout": 0.0, "save_strategy": "no", "train_sampling_strategy": "sequential"}
    for name, on in (("plain", False), ("recomputed", True)):
        assert run(command(pages, base, tmp_path / name, gradient_checkpointing=on, **common)) == 0
    losses = [[line["loss"] for line in read_log(tmp_path / name)] for name in ("plain", "recomputed")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_trains(pages: Path, base: Path, tmp_path: Path, bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    common = {"bits": bits, "random_k": None, "progressive": False}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert launch(1, run, command(pages, base, whole, **common)) == [0]
    assert -signal.SIGKILL in launch(1, run, command(pages, base, broken, **common), 6)
    assert launch(1, run, command(pages, base, broken, **common)) == [0]
    assert exact(broken) == exact(whole)
    losses = [line["loss"] for line in read_log(whole)]
    assert losses[-1] < 0.5 * losses[0]
    merged = CambrianGazeForConditionalGeneration.from_pretrained(merge_adapter(base, whole, tmp_path / "merged"))
    assert getattr(merged.config, "quantization_config", None) is None
    assert {p.dtype for p in merged.parameters()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize(("optim", "package"), [("adamw_8bit", "bitsandbytes"), ("adamw_torch_8bit", "torchao")])
def test_eight_bit_optimizers_train_and_resume(
    pages: Path, base: Path, tmp_path: Path, optim: str, package: str
) -> None:
    """Full parameter: states below 4096 entries stay in 32 bits."""
    pytest.importorskip(package)
    common = {**dict.fromkeys(("lora_enable", "lora_r", "lora_alpha")), "optim": optim, "save_steps": 2, "max_steps": 4}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert launch(1, run, command(pages, base, whole, **common)) == [0]
    assert -signal.SIGKILL in launch(1, run, command(pages, base, broken, **common), 4)
    assert launch(1, run, command(pages, base, broken, **common)) == [0]
    assert exact(broken) == exact(whole)


def test_generate_merge_and_push_on_the_command_line(
    base: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--prompt", "Read B3", "--max_new_tokens", "6", "--device", "cpu"]
    out = str(tmp_path / "merged")
    assert main(["generate", "--model", str(base), "--adapter", str(tuned), *asked]) == 0
    expected = capsys.readouterr().out
    assert main(["merge", "--model", str(base), "--adapter", str(tuned), "--out", out]) == 0
    assert "merged in" in capsys.readouterr().out
    assert main(["generate", "--model", out, *asked]) == 0
    assert capsys.readouterr().out == expected
    assert main(["merge", "--model", str(base), "--adapter", str(tuned), "--out", out]) == 1
    assert "not an empty folder" in capsys.readouterr().err
    assert main(["generate", "--model", str(tuned), *asked]) == 2
    assert f"give --model {base} --adapter {tuned}" in capsys.readouterr().err
    assert main(["generate", "--model", str(base), "--adapter", str(base), *asked]) == 2
    assert "holds no adapter_config.json" in capsys.readouterr().err
    assert main(["merge", "--model", out, "--adapter", str(tuned), "--out", str(tmp_path / "twice")]) == 1
    assert "was trained on" in capsys.readouterr().err and not (tmp_path / "twice").exists()
    assert main(["push", str(tuned), "--repo", "someone/model", "--dry_run"]) == 1
    assert "cambrian-gaze merge" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lora", "model", "said"),
    [
        ({}, {"preset": "tiny"}, "a saved Cambrian-Gaze model"),
        ({}, {"unfreeze_mm_vision_tower": True}, "leaves the vision tower"),
        ({}, {"freeze_backbone": True}, "one or the other"),
        ({}, {"tune_mm_mlp_adapter": True}, "one or the other"),
        ({}, {"tune_context_tokens": False, "pretrain_mm_mlp_adapter": "x"}, "must be the base's"),
        ({"lora_target": ["q_proj", "fc1"]}, {}, "no linear layers fc1; choose from down_proj"),
        ({"lora_r": 0}, {}, "lora_r must be at least 1"),
        ({"bits": 4, "lora_enable": False}, {}, "set lora_enable"),
        ({"lora_r": 8, "lora_target": ["q_proj"], "lora_enable": False}, {}, "lora_r and lora_target: without effect"),
        ({"double_quant": False}, {}, "double_quant: without effect with bits 16"),
    ],
)
def test_contradictions_are_refused(base: Path, tmp_path: Path, lora: dict, model: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        given = model if "preset" in model else {"model_name_or_path": str(base), **model}
        build(tmp_path, LoraArguments(**{"lora_enable": True, **lora}), **given)


def test_targets_context_tokens_and_new_ones(base: Path, tmp_path: Path) -> None:
    def trained(model) -> set[str]:
        return {name for name, p in model.named_parameters() if p.requires_grad}

    two = LoraArguments(lora_enable=True, lora_target=["q_proj", "v_proj"])
    model, _ = build(tmp_path, two, model_name_or_path=str(base), tune_context_tokens=False)
    assert {module_of(name) for name in trained(model)} == {DECODER, PROJECTOR}
    adapters = {name.split(".")[-4] for name in trained(model) if "lora_" in name}
    assert adapters == {"q_proj", "v_proj"}
    dense = {"num_context_tokens": 0}
    model, _ = build(tmp_path, two, dense, model_name_or_path=str(base))
    assert CONTEXT not in {module_of(name) for name in trained(model)}


def test_a_plan_counts_the_adapters_alone_as_trained() -> None:
    training = TrainingArguments(output_dir="plan", use_cpu=True)
    full, adapted = (
        build_shapes(ModelArguments(model_name_or_path="runs/stage2", preset="4b"), GazeArguments(), training, lora)
        for lora in (None, LoraArguments(lora_enable=True))
    )
    assert {p.device.type for p in adapted.parameters()} == {"meta"}
    low_rank = sum(p.numel() for name, p in adapted.named_parameters() if "lora_" in name)
    text = full.config.text_config
    inner, kv = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    shapes = [(text.hidden_size, inner), (text.hidden_size, kv), (text.hidden_size, kv), (inner, text.hidden_size)]
    shapes += [(text.hidden_size, text.intermediate_size)] * 3
    assert low_rank == 64 * text.num_hidden_layers * sum(a + b for a, b in shapes)
    ratio = FlopsModel.of(adapted).per_token / FlopsModel.of(full).per_token
    assert 2 / 3 < ratio < 0.72, "no gradients of the frozen weights"
    assert FlopsModel.of(adapted).per_image == FlopsModel.of(full).per_image
    with pytest.raises(ValueError, match="leave bits out"):
        build_shapes(ModelArguments(preset="4b"), GazeArguments(), training, LoraArguments(lora_enable=True, bits=4))

"""The memory estimate beside what is there: bytes of parameters, gradients and optimizer, and of the tensors that
autograd saves, on the tiny and on a middling model."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from cambrian_gaze.attention.context import GazeContext
from cambrian_gaze.attention.sequence import SequenceGroup
from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration
from cambrian_gaze.training.build import choose_trainable
from cambrian_gaze.training.config.arguments import ModelArguments
from cambrian_gaze.training.estimate.memory import MicroBatch, Placement, saved_bytes, state_bytes
from tests.training._ranks import launch

WITHIN = 0.15
MIDDLING = {
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 128,
        "patch_size": 8,
    },
    "text_config": {
        "model_type": "qwen2",
        "vocab_size": 4096,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
    },
    "gaze": {"image": {"region_size": [1, 4, 4], "top_k": 2}},
    "image_token_id": 1,
    "video_token_id": 2,
    "context_token_id": 3,
}
SIZES = {
    "tiny": {},
    "middling": MIDDLING,
    "middling, compressed": {**MIDDLING, "mm_projector_type": "conv3x3_mlp2x_gelu"},
}


def build(size: str, stage: int, dtype: torch.dtype, dense: bool) -> CambrianGazeForConditionalGeneration:
    changes = dict(SIZES[size])
    if dense:
        changes["gaze"] = {"num_context_tokens": 0}
    torch.manual_seed(0)
    model = CambrianGazeForConditionalGeneration.from_preset("tiny", **changes).to(dtype).train()
    choose_trainable(model, ModelArguments(unfreeze_mm_vision_tower=stage == 2), stage)
    return model


def inputs_of(model: CambrianGazeForConditionalGeneration, rows: int, text: int) -> dict[str, torch.Tensor]:
    """Rows of one image and then text, half of it supervised."""
    config, side = model.config, model.config.vision_config.image_size
    h, w = config.grid
    context = config.gaze_config.num_context_tokens
    ids = [config.image_token_id] * (h * w) + [config.context_token_id] * context + [7] * text
    types = [1] * (h * w) + [3] * context + [0] * text
    labels = [-100] * (len(ids) - text // 2) + [7] * (text // 2)
    return {
        "input_ids": torch.tensor([ids] * rows),
        "mm_token_type_ids": torch.tensor([types] * rows),
        "labels": torch.tensor([labels] * rows),
        "attention_mask": torch.ones(rows, len(ids), dtype=torch.int64),
        "pixel_values": torch.rand(rows, 3, side, side),
        "grid_thw": torch.tensor([[1, h, w]] * rows),
    }


class Saved:
    """Distinct storages that autograd saves, parameters left out, and inputs of checkpointed layers."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.held: dict[int, torch.Tensor] = {}

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in self.parameters:
            self.held.setdefault(place, tensor)  # kept, so that its place is not used again
        return tensor

    def see(self, tensor: torch.Tensor) -> None:
        self.add(tensor)

    def bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self.held.values())


@contextmanager
def counting(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Saved, list[int]]]:
    """What the forward passes inside save, and the bytes of the selections that checkpointing keeps."""
    saved, selections, choose = Saved(model), [], GazeContext.choose

    def watched(context: GazeContext, layer: int, *args: object) -> torch.Tensor:
        regions = choose(context, layer, *args)
        selections.append(regions.untyped_storage().nbytes() if context.saved is not None else 0)
        return regions

    monkeypatch.setattr(GazeContext, "choose", watched)
    handles = [
        layer.register_forward_pre_hook(lambda module, args: saved.see(args[0]))
        for layer in model.modules()
        if getattr(layer, "gradient_checkpointing", False) and type(layer).__name__.endswith("Layer")
    ]
    with torch.autograd.graph.saved_tensors_hooks(saved.add, lambda tensor: tensor):
        yield saved, selections
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("stage", "dtype", "dense", "checkpointing"),
    [
        (2, torch.float32, False, False),
        (2, torch.bfloat16, False, False),
        (2, torch.float32, True, False),
        (1, torch.float32, False, False),
        (2, torch.float32, False, True),
        (2, torch.bfloat16, True, True),
    ],
)
def test_saved_activations(
    size: str, stage: int, dtype: torch.dtype, dense: bool, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(size, stage, dtype, dense)
    if checkpointing:
        model.gradient_checkpointing_enable()
    rows, text = 2, 96
    inputs = inputs_of(model, rows, text)
    with counting(model, monkeypatch) as (saved, selections):
        model(**inputs, skip_logits=True, use_cache=False)
    batch = MicroBatch(
        rows, inputs["input_ids"].shape[1], units=rows, supervised=rows * (text // 2), most_regions=0 if dense else 2
    )
    place = Placement(1, 0, dtype == torch.bfloat16, checkpointing)
    parts = saved_bytes(model, batch, place, "masked")
    assert parts["selections"] == sum(selections)
    estimate = sum(parts[name] for name in ("tower", "projector", "decoder", "keys and values", "logits"))
    assert estimate == pytest.approx(saved.bytes(), rel=WITHIN)


def count_on_rank(folder: str) -> int:
    """What one of two ranks that share a batch keeps, checkpointed and not: counted, and as estimated."""
    dist.init_process_group("gloo")
    group, figures = SequenceGroup(dist.group.WORLD), []
    for checkpointing in (False, True):
        model = build("tiny", 2, torch.float32, dense=False)
        if checkpointing:
            model.gradient_checkpointing_enable()
        rows, text = 2, 96
        inputs = inputs_of(model, rows, text)
        with pytest.MonkeyPatch.context() as patch, counting(model, patch) as (saved, selections):
            model(**inputs, skip_logits=True, use_cache=False, sequence_group=group)
        length = inputs["input_ids"].shape[1]
        batch = MicroBatch(rows, length, rows, rows * (text // 2), most_regions=2, shards=2)
        parts = saved_bytes(model, batch, Placement(2, 0, False, checkpointing), "masked")
        estimate = sum(parts[name] for name in ("tower", "projector", "decoder", "keys and values", "logits"))
        figures.append([saved.bytes(), estimate, sum(selections), parts["selections"]])
    (Path(folder) / f"rank{group.rank}.json").write_text(json.dumps(figures))
    dist.destroy_process_group()
    return 0


def test_saved_activations_of_a_sequence_parallel_group(tmp_path: Path) -> None:
    """The answers of the batch lie in the second half, so that the second rank has all of the logits."""
    assert launch(2, count_on_rank, str(tmp_path)) == [0, 0]
    for saved, estimate, selections, estimated in json.loads((tmp_path / "rank1.json").read_text()):
        assert estimate == pytest.approx(saved, rel=WITHIN)
        assert estimated == pytest.approx(selections, rel=0.02)


@pytest.mark.parametrize("size", ["tiny", "middling"])
@pytest.mark.parametrize("stage", [1, 2])
def test_parameters_gradients_and_optimizer(size: str, stage: int) -> None:
    model = build(size, stage, torch.float32, dense=False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    for p in trained:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    state = [value for entry in optimizer.state.values() for value in entry.values()]
    counted = {
        "weights": sum(p.numel() * p.element_size() for p in model.parameters()),
        "gradients": sum(p.grad.numel() * p.grad.element_size() for p in trained),
        "optimizer": sum(value.numel() * value.element_size() for value in state),
    }
    estimate = state_bytes(model, Placement(1, 0, bf16=False, checkpointing=False))
    for part, amount in counted.items():
        assert estimate[part] == pytest.approx(amount, rel=0.01), part


def test_deepspeed_shares_by_stage() -> None:
    model = build("tiny", 2, torch.bfloat16, dense=False)
    number = sum(p.numel() for p in model.parameters())
    parts = [state_bytes(model, Placement(8, stage, True, True, 1000)) for stage in (1, 2, 3)]
    share = -(-number * 16 // 8)
    assert parts[0] == {"weights": 2 * number, "gradients": 2 * number, "optimizer": share, "buffers": 4000}
    assert parts[1] == {**parts[0], "gradients": -(-2 * number // 8)}
    assert parts[2] == {**parts[1], "weights": -(-2 * number // 8)}

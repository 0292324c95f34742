"""`cambrian-gaze bench train-step`: whole optimizer steps of a preset with random weights on one device.

Forward, backward and AdamW over a sample of a little text, one video and text again, the vision tower frozen as in
stage 2. Dense is measured twice, with transformers' own attention and with gaze attention that keeps every region, both
without context tokens; then gaze, and gaze over visual tokens compressed to a quarter. `ratio_to_dense` compares steps,
also where compression makes them shorter.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cambrian_gaze import measure

if TYPE_CHECKING:
    import torch

SECTION = "bench train-step"
"""Name of this bench's table; its words are in `bench/pages/texts.py`."""

COLUMNS = {
    "preset": "preset",
    "batch": "B",
    "text_tokens": "T",
    "visual_tokens": "N_v",
    "dtype": "dtype",
    "arm": "arm",
    "form": "attention",
    "kept": "kept",
    "median_us": "µs per step",
    "ratio_to_dense": "dense / this",
    "tokens_per_s": "tokens/s",
    "mfu": "MFU",
    "held_bytes": "weights, optimizer",
    "peak_bytes": "peak beyond these",
    "note": "note",
}

QUICK: dict[str, Any] = {"frames": 1, "repeats": 3}
"""Defaults under `--quick`."""


@dataclass(frozen=True)
class StepSetup:
    """One way to train."""

    name: str
    form: str
    """Attention of the decoder: transformers' "sdpa", or "gaze" with the backend that `--backend` names."""
    dense: bool = False
    compressed: bool = False


ARMS = (
    StepSetup("dense", "sdpa", dense=True),
    StepSetup("dense", "gaze, all regions", dense=True),
    StepSetup("gaze", "gaze"),
    StepSetup("gaze, compressed", "gaze", compressed=True),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--device", choices=["all", "cpu", "cuda"], default="all", help="default: all there are")
    parser.add_argument("--preset", nargs="+", metavar="NAME", help="default: tiny on a CPU, 4b on a GPU")
    parser.add_argument("--batch", type=int, default=1, metavar="B", help="samples; default: 1")
    parser.add_argument("--frames", type=int, default=8, metavar="N", help="frames of the video; default: 8")
    parser.add_argument("--text", type=int, default=256, metavar="T", help="text tokens; default: 256")
    parser.add_argument("--keep_ratio", type=float, default=0.125, metavar="R", help="regions kept; default: 0.125")
    parser.add_argument("--backend", default="auto", metavar="NAME", help="attention backend; default: auto")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], help="default: fp32 on a CPU, bf16 on a GPU")
    parser.add_argument("--layers", type=int, metavar="N", help="decoder layers, fewer than the preset has")
    parser.add_argument("--checkpointing", action="store_true", help="checkpoint activations")
    parser.add_argument("--repeats", type=int, default=10, metavar="N", help="timed steps of each arm; default: 10")
    measure.add_time_limit(parser)


def run(args: argparse.Namespace) -> list[measure.Row]:
    """A row per preset and arm. Raises ValueError for an unknown preset."""
    import torch

    if min(args.batch, args.frames, args.repeats) < 1 or args.text < 2:
        raise ValueError("need at least one sample, frame and repeat, and two text tokens")
    rows: list[measure.Row] = []
    up = measure.time_is_up(args)
    for device in ("cpu", "cuda") if args.device == "all" else (args.device,):
        present = device == "cpu" or torch.cuda.is_available()
        for preset in args.preset or (["tiny"] if device == "cpu" else ["4b"]):
            rows += _rows(args, device, preset, present, up)
    measure.add_ratios(rows, ("preset", "batch", "text_tokens", "dtype", "device"))
    return rows


def _rows(
    args: argparse.Namespace, device: str, preset: str, present: bool, time_is_up: Callable[[], bool]
) -> Iterator[measure.Row]:
    import torch

    from cambrian_gaze.models.configuration import CambrianGazeConfig

    dtype = args.dtype or ("fp32" if device == "cpu" else "bf16")
    for arm in ARMS:
        config = CambrianGazeConfig.from_preset(preset, **_overrides(args, preset, arm))
        h, w = config.grid
        values: dict[str, Any] = {"note": measure.NO_TIME_LEFT if present else "no GPU here"}
        if present and not time_is_up():
            try:
                values = _figures(args, arm, config, torch.device(device), dtype)
            except torch.OutOfMemoryError:
                values = {"note": "out of memory"}
        yield measure.row(
            **{"form": arm.form, **values},
            arm=arm.name,
            visual_tokens=args.frames * h * w,
            kept=1.0 if arm.dense else args.keep_ratio,
            granularity=None if arm.dense else config.gaze_config.head_granularity,
            dtype=dtype,
            device=device,
            preset=preset,
            batch=args.batch,
            text_tokens=args.text,
            layers=config.text_config.num_hidden_layers,
            checkpointing=args.checkpointing,
        )


def _overrides(args: argparse.Namespace, preset: str, arm: StepSetup) -> dict[str, Any]:
    """Fields of the configuration in which an arm differs from the preset."""
    from cambrian_gaze.models import presets

    values = presets.preset(preset)
    size = values["gaze"]["image"]["region_size"]
    if arm.compressed:  # half the sides of the grid, so that a region covers the same part of the picture
        size = [size[0], size[1] // 2, size[2] // 2]
    ratio = 1.0 if arm.dense else args.keep_ratio
    gaze: dict[str, Any] = {"image": {"region_size": size, "keep_ratio": ratio}, "backend": args.backend}
    if arm.dense:
        gaze["num_context_tokens"] = 0
    overrides: dict[str, Any] = {"gaze": gaze}
    if arm.compressed:
        overrides["mm_projector_type"] = "conv3x3_mlp2x_gelu"
    if args.layers is not None:
        overrides["text_config"] = {**values["text_config"], "num_hidden_layers": args.layers}
    return overrides


def _figures(args: argparse.Namespace, arm: StepSetup, config: Any, device: torch.device, dtype: str) -> dict[str, Any]:
    """What is measured of one arm. The model is gone afterwards."""
    import torch

    from cambrian_gaze.models.modeling import CambrianGazeForConditionalGeneration
    from cambrian_gaze.training.metrics.flops import FlopsModel, peak_flops

    number = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    torch.manual_seed(0)
    with device:
        model = CambrianGazeForConditionalGeneration(config).to(number).train()
    model.model.vision_tower.requires_grad_(False)
    form = arm.form
    backends: list[str] = []
    if form == "sdpa":
        model.model.dense_decoder = True
        model.model.language_model.set_attn_implementation("sdpa")
    else:
        model.model.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: backends.append(kwargs["gaze_context"].prepared.backend.name),
            with_kwargs=True,
        )
    if args.checkpointing:
        model.gradient_checkpointing_enable()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=device.type == "cuda")
    batch = random_batch(config, args.batch, args.frames, args.text, device)
    step = _step(model, optimizer, batch)
    loss = float(step())
    held = sum(p.nbytes for p in model.parameters())
    held += sum(x.nbytes for state in optimizer.state.values() for x in state.values() if torch.is_tensor(x))
    microseconds = measure.median_us(step, device, warmup=1, repeats=args.repeats, seconds=20.0)
    rows, length = batch["input_ids"].shape
    flops = FlopsModel.of(model).total(rows * length, rows * length**2, rows * args.frames)
    peak = peak_flops(device, None)
    return {
        "form": f"{form} ({backends[-1]})" if backends else form,
        "median_us": microseconds,
        "tokens_per_s": rows * length / microseconds * 1e6,
        "mfu": None if peak is None else flops / (microseconds * 1e-6) / peak,
        "held_bytes": held,
        "peak_bytes": measure.peak_bytes(step, device),
        "loss": loss,
    }


def _step(model: Any, optimizer: Any, batch: dict[str, torch.Tensor]) -> Callable[[], torch.Tensor]:
    def step() -> torch.Tensor:
        loss = model(**batch, skip_logits=True).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def random_batch(config: Any, rows: int, frames: int, text: int, device: torch.device) -> dict[str, torch.Tensor]:
    """What the collator would hand over: text, one video of `frames` frames, text, of which all but the first
    sixteen tokens are supervised; random ids and pixels."""
    import torch

    from cambrian_gaze.gaze.token_types import CONTEXT_TYPE, IGNORED_LABEL, TEXT_TYPE, VIDEO_TYPE

    h, w = config.grid
    lead = min(16, text // 2)
    video = ([VIDEO_TYPE] * (h * w) + [CONTEXT_TYPE] * config.gaze_config.num_context_tokens) * frames
    types = torch.tensor([[TEXT_TYPE] * lead + video + [TEXT_TYPE] * (text - lead)]).expand(rows, -1).contiguous()
    ids = torch.randint(0, config.text_config.vocab_size, types.shape)
    for kind, token in ((VIDEO_TYPE, config.video_token_id), (CONTEXT_TYPE, config.context_token_id)):
        ids[types == kind] = token
    labels = ids.clone()
    labels[:, : types.shape[1] - (text - lead)] = IGNORED_LABEL
    side = config.vision_config.image_size
    batch = {
        "input_ids": ids,
        "labels": labels,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": types,
        "grid_thw": torch.tensor([[frames, h, w]] * rows),
        "pixel_values": torch.randn(rows * frames, 3, side, side),
    }
    return {name: x.to(device) for name, x in batch.items()}

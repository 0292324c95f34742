"""What a run will take, before it is run: parameters, memory of a device, FLOPs, tokens, hours, and what will go wrong.

Time is model FLOPs over peak × MFU, and MFU is assumed: neither measured here nor fitted to the paper's GPU-hours. 0.35
is what Trainer with ZeRO-2 and activation checkpointing is commonly seen to reach on H100 at these sizes. Waiting for
data, padding, checkpoints and evaluation come on top.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cambrian_gaze.attention.registry import pick
from cambrian_gaze.attention.sequence import check_heads
from cambrian_gaze.gaze.config import GazeConfig
from cambrian_gaze.training.build import build_shapes
from cambrian_gaze.training.config import config as configuration
from cambrian_gaze.training.config.arguments import TrainingArguments
from cambrian_gaze.training.config.flags import boolean, number, split_files
from cambrian_gaze.training.config.layers import ConfigError
from cambrian_gaze.training.config.values import gather
from cambrian_gaze.training.estimate.data import Workload, workload
from cambrian_gaze.training.estimate.flops import attended, sample_flops
from cambrian_gaze.training.estimate.memory import MicroBatch, Placement, saved_bytes, state_bytes
from cambrian_gaze.training.launch.batch import accumulation_steps
from cambrian_gaze.training.metrics.flops import PEAK_TFLOPS
from cambrian_gaze.training.optimizer import MODULES, module_of

GIB = 2**30
USABLE = 0.92
"""Share of a device's memory that tensors can take: the rest is the driver's, the kernels', and fragments."""

GPUS = {
    "h100": ("H100", 80),
    "h200": ("H200", 141),
    "gh200": ("GH200", 96),
    "b200": ("B200", 180),
    "a100": ("A100", 80),
    "a100-40": ("A100", 40),
    "l40s": ("L40S", 48),
    "rtx4090": ("RTX 4090", 24),
}
"""Name in `flops.PEAK_TFLOPS`, and memory in GB."""

PAPER_GPU_HOURS = 384
"""H100 hours of one configuration, "for both image and video training" (section 4.1)."""

PAPER_PARTS = {"cambrian_7m", "cambrian_s_20pct"}
"""Recipes of the runs that these hours cover; whether they cover stage 1 the paper does not say."""

MOMENTS = 100
"""Points of the K schedule that are averaged over."""


@dataclass(frozen=True)
class RunEstimate:
    """One run on some devices. Bytes are of one device, FLOPs of one optimizer step over all."""

    config: str
    gpus: int
    gpu: str
    mfu: float
    parameters: dict[str, tuple[int, int]]
    """Module → (all, trained)."""
    memory: dict[str, int]
    memory_gb: int
    activations: dict[str, int]
    """All that `memory` holds beside the training state, `with checkpointing` and `without`."""
    flops: dict[str, float]
    tokens: dict[str, float]
    """Of the mean sample: visual, context, text; and `per_step`, over all devices."""
    batch: dict[str, int]
    data: Workload
    recipe: str
    steps: int | None
    hours: float | None
    warnings: list[str]

    @property
    def gpu_hours(self) -> float | None:
        """Hours of all devices together."""
        return None if self.hours is None else self.hours * self.gpus

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**dataclasses.asdict(self), "gpu_hours": self.gpu_hours}


def make_plan(
    argv: Sequence[str], gpus: int, gpu: str, mfu: float, frames: int | None = None, **changes: float | None
) -> RunEstimate:
    """Estimate the run of a configuration and its flags.

    Args:
        argv: as `cambrian-gaze train` takes it.
        gpu: a key of `GPUS`.
        mfu: share of the peak that model FLOPs reach.
        frames: images or frames per sample with any; by default 1, of video recipes `video_max_frames`.
        changes: fields of `Workload` to replace.

    Raises: ConfigError, or ValueError where sizes or options make no sense.
    """
    if gpu not in GPUS:
        raise ValueError(f"unknown GPU {gpu!r}; known: {', '.join(GPUS)}")
    if not 0 < mfu <= 1 or gpus < 1:
        raise ValueError(f"need at least one GPU and an MFU in (0, 1], got {gpus} and {mfu}")
    values, _ = gather(argv)
    # The machine that plans may have no GPU, and one rank: what depends on either is read from `values` instead.
    here = ["--use_cpu", "--no_bf16", "--no_fp16", "--report_to", "none"]
    here += [f"--{key}=null" for key in ("torch_empty_cache_steps", "deepspeed", "global_batch_size")]
    here += ["--sequence_parallel_size", "1"]
    shards = number("sequence_parallel_size", values.get("sequence_parallel_size", 1))
    if shards < 1 or gpus % shards:
        raise ValueError(f"sequence_parallel_size {shards} must divide the number of GPUs, {gpus}")
    run = configuration.load([*argv, *here, *([] if "output_dir" in values else ["--output_dir=plan"])])
    work = workload(run.data, **changes)
    model = build_shapes(run.model, run.gaze, run.training, run.lora)
    gaze: GazeConfig = model.config.gaze_config
    warnings: list[str] = []

    units = frames if frames is not None else run.data.video_max_frames if work.video else 1
    text = model.config.get_text_config()
    check_heads(text.num_attention_heads, text.num_key_value_heads, shards)
    batch = _batch(values, run.training, gpus // shards, warnings)
    per_unit = model.config.grid[0] * model.config.grid[1] + gaze.num_context_tokens
    length = run.data.max_length
    if units * per_unit + work.text_tokens > length:
        warnings.append(
            f"max_length {length} holds {max(0, (length - work.text_tokens) // per_unit)} images or frames of "
            f"{per_unit} tokens and {work.text_tokens} of text, not {units}: longer samples are quarantined; "
            "raise max_length, or lower video_max_frames"
        )

    ratios = _keep_ratios(run.training.stage, run.gaze.progressive, gaze)
    place = _placement(values, run.training, gpus)
    backend = gaze.backend
    if backend == "auto":
        backend = pick(gaze, torch.device("cuda"), torch.bfloat16 if place.bf16 else torch.float32).name
    routed = [attended(gaze, units, model.config.grid, ratio).kept for ratio in ratios if ratio < 1]
    largest = MicroBatch(
        rows=batch["per_device"],
        length=length,
        units=batch["per_device"] * units,
        supervised=batch["per_device"] * max(0, length - units * per_unit),
        most_regions=0 if gaze.is_dense else max(routed, default=0),
        shards=shards,
    )
    saved = {
        checkpointing: saved_bytes(model, largest, dataclasses.replace(place, checkpointing=checkpointing), backend)
        for checkpointing in (True, False)
    }
    memory = {**state_bytes(model, place), **saved[place.checkpointing]}
    name, memory_gb = GPUS[gpu]
    needed, there = sum(memory.values()), USABLE * memory_gb * 1e9
    if needed > there:
        part = max(memory, key=memory.get)
        warnings.append(
            f"does not fit: {needed / GIB:.0f} GiB of {there / GIB:.0f} GiB on one {gpu}, most of it {part}; "
            "lower per_device_train_batch_size or max_length, use more GPUs, or a higher ZeRO stage"
        )

    per_sample = sample_flops(model, work, units, gaze, ratios)
    flops = {part: amount * batch["global"] for part, amount in per_sample.items()}
    steps = _steps(run.training, work, batch["global"])
    if steps is None:
        warnings.append("the number of samples is not known, so there are no hours; give --samples or --max_steps")
    hours = None if steps is None else steps * sum(flops.values()) / (gpus * PEAK_TFLOPS[name] * 1e12 * mfu) / 3600
    visual, context = work.visual_share * units * (per_unit - gaze.num_context_tokens), gaze.num_context_tokens
    tokens = {"visual": visual, "context": work.visual_share * units * context, "text": float(work.text_tokens)}
    tokens["per_step"] = sum(tokens.values()) * batch["global"]
    return RunEstimate(
        config=(split_files(argv)[0] or ["flags"])[0],
        gpus=gpus,
        gpu=gpu,
        mfu=mfu,
        parameters=_parameters(model),
        memory=memory,
        memory_gb=memory_gb,
        activations={"with checkpointing": sum(saved[True].values()), "without": sum(saved[False].values())},
        flops=flops,
        tokens=tokens,
        batch={**batch, "length": length, "supervised": largest.supervised},
        data=work,
        recipe=Path((run.data.data_path or ["none"])[0]).stem,
        steps=steps,
        hours=hours,
        warnings=warnings,
    )


def _batch(values: dict[str, Any], training: TrainingArguments, readers: int, warnings: list[str]) -> dict[str, int]:
    """`readers`: GPUs, or groups of them that share a batch."""
    per_device = training.per_device_train_batch_size
    steps = training.gradient_accumulation_steps
    if "global_batch_size" in values:
        whole = number("global_batch_size", values["global_batch_size"])
        try:
            steps = accumulation_steps(whole, per_device, readers)
        except ValueError as error:
            if whole < 1:
                raise
            warnings.append(f"the batch does not divide: {error}")
            steps = max(1, whole // (per_device * readers))
    return {"global": per_device * readers * steps, "per_device": per_device, "accumulation": steps, "readers": readers}


def _placement(values: dict[str, Any], training: TrainingArguments, gpus: int) -> Placement:
    stage = bucket = 0
    if path := values.get("deepspeed"):
        try:
            zero = json.loads(Path(path).read_text(encoding="utf-8")).get("zero_optimization", {})
        except (OSError, ValueError) as error:
            raise ConfigError(f"deepspeed: {path} cannot be read ({error})") from error
        stage = int(zero.get("stage", 0))
        bucket = int(zero.get("reduce_bucket_size", 5e8)) if stage else 0
    names = ("gradient_checkpointing", "activation_checkpointing")
    return Placement(
        ranks=gpus,
        zero_stage=stage,
        bf16=boolean(values.get("bf16", False)),
        checkpointing=any(getattr(training, name, False) for name in names),
        bucket_elements=bucket,
    )


def _keep_ratios(stage: int, progressive: bool, gaze: GazeConfig) -> list[float]:
    """ρ at `MOMENTS` points of the run, as the trainer sets it."""
    if stage == 1:
        return [1.0]
    if not progressive or gaze.is_dense:
        return [gaze.min_keep_ratio]
    return [max(gaze.min_keep_ratio, gaze.schedule.keep_ratio(step, MOMENTS)) for step in range(MOMENTS)]


def _steps(training: TrainingArguments, work: Workload, whole: int) -> int | None:
    if training.max_steps > 0:
        return training.max_steps
    return None if work.samples is None else math.ceil(work.samples * training.num_train_epochs / whole)


def _parameters(model: torch.nn.Module) -> dict[str, tuple[int, int]]:
    counts = {module: [0, 0] for module in MODULES}
    for name, parameter in model.named_parameters():
        count = counts[module_of(name)]
        count[0] += parameter.numel()
        count[1] += parameter.numel() * parameter.requires_grad
    return {module: (every, trained) for module, (every, trained) in counts.items()}

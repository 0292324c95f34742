"""Settings of a run. Every field is a key of the YAML files in `train/configs` and a command-line flag.

The docstring under a field is its help text. Here are the fields beside transformers' own; those of the model, the
data and so on lie in modules of their own, and `ARGUMENT_CLASSES` has all.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import transformers

from cambrian_gaze.training.config.accepted import refusals
from cambrian_gaze.training.config.data_arguments import DataArguments
from cambrian_gaze.training.config.gaze_arguments import GazeArguments
from cambrian_gaze.training.config.lora_arguments import LoraArguments
from cambrian_gaze.training.config.model_arguments import ModelArguments
from cambrian_gaze.training.config.task_arguments import TaskArguments
from cambrian_gaze.training.launch.batch import accumulation_steps
from cambrian_gaze.training.launch.group import start_cpu_group
from cambrian_gaze.training.launch.ranks import launched_ranks

_NOT_NEGATIVE = (
    *("hang_timeout", "grad_spike_factor", "max_bad_steps", "sample_steps", "probe_steps"),
    *("learning_rate", "weight_decay", "dataloader_num_workers"),
)
_POSITIVE = (
    *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
    *("num_train_epochs", "base_batch_size"),
)


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """Every argument of `transformers.TrainingArguments`, and these."""

    stage: Literal[1, 2] = 2
    """1: projector and context tokens, every region kept. 2: full parameter with Progressive TopK."""

    mm_projector_lr: float | None = None
    """Learning rate of the projector; by default `learning_rate`."""

    mm_vision_tower_lr: float | None = None
    """Learning rate of the vision tower; by default `learning_rate`."""

    context_tokens_lr: float | None = None
    """Learning rate of the context tokens; by default the projector's."""

    warmup_ratio: float | None = None
    """Share of the steps that warm up; a `warmup_steps` below 1 means the same."""

    global_batch_size: int | None = None
    """Samples per optimizer step over all ranks: `gradient_accumulation_steps` follows from it. Where it is not given
    it follows from the others."""

    base_batch_size: int | None = None
    """Where given, learning rates are scaled by the square root of the global batch size over this one."""

    nproc_per_node: int = 1
    """Processes that `cambrian-gaze train` starts on this machine, unless it runs under a launcher already."""

    auto_resume: bool = True
    """Continue from the last complete checkpoint in `output_dir`, if there is one."""

    sequence_parallel_size: int = 1
    """Neighbouring ranks that share the tokens of each batch, for long videos. `per_device_train_batch_size` is then
    the batch of such a group. Must divide the number of ranks and the decoder's query and key-value heads."""

    verify_checkpoint: bool = True
    """Before resuming, read the checkpoint and compare the SHA-256 of every file; sizes are compared in any case."""

    save_milestone_steps: int | None = None
    """Keep every checkpoint whose step is a multiple of it, beyond `save_total_limit`. A multiple of `save_steps`."""

    ddp_timeout: int = 600
    """Seconds that a rank waits for the others in a collective operation before it fails."""

    hang_timeout: float = 480.0
    """Seconds that a micro-batch may take before the rank writes its stacks to `output_dir/stacks` and ends with status
    86; the first step, evaluation and saving have 4 times as long. 0: no limit. Less than `ddp_timeout`, so that the
    stacks show whom the others wait for."""

    grad_spike_factor: float = 20.0
    """A step whose gradient norm is more than this many times the median of the last 128 is left out; 0: none is. One
    that is not finite is left out in any case."""

    max_bad_steps: int = 10
    """The run stops once more than this many of the last 1000 steps were left out; `bad_steps.jsonl` names their
    samples."""

    probe_steps: int = 500
    """At logging steps that are a multiple of it, measure on four samples, always the same, how much of dense attention
    lies inside the K regions that the model would choose; 0 never."""

    sample_steps: int = 0
    """Every so many steps, answer one sample with a picture and write where the model looked to `output_dir/samples`,
    and to W&B and TensorBoard where these are on; 0 never."""

    gaze_stats_steps: int = 1
    """Count attended KV entries at every n-th logging step; 0 never."""

    peak_tflops: float | None = None
    """Peak TFLOP/s of one device, for MFU. By default from a table of GPUs; without either, MFU is left out."""

    remove_unused_columns: bool = False
    """The collator emits what the model takes, and counts."""

    logging_nan_inf_filter: bool = False
    """A loss that is not finite is logged as it is."""

    report_to: None | str | list[str] = field(default="none")
    """`wandb`, `tensorboard`, `none`, … `train_log.jsonl` is written in any case."""

    save_strategy: str = "steps"
    """When checkpoints are written: `steps`, `epoch`, `best`, `no`."""

    def __post_init__(self) -> None:
        if self.warmup_ratio is not None:
            if not 0 <= self.warmup_ratio < 1:
                raise ValueError(f"warmup_ratio must be in [0, 1), got {self.warmup_ratio}")
            if self.warmup_steps not in (0, self.warmup_ratio):
                raise ValueError(
                    f"give warmup_ratio ({self.warmup_ratio}) or warmup_steps ({self.warmup_steps}); "
                    "--warmup_ratio null takes a file's back"
                )
            self.warmup_steps = self.warmup_ratio
        if (every := self.save_milestone_steps) is not None and (
            every < 1 or self.save_strategy != "steps" or self.save_steps < 1 or every % self.save_steps
        ):
            raise ValueError(
                f"save_milestone_steps {every} must be a multiple of save_steps, a number of steps, now "
                f"{self.save_steps:g} with save_strategy {self.save_strategy}: no other checkpoints are written"
            )
        self._forward_checkpointing_names()
        self._check_numbers()
        # Without it Trainer takes ranks without an accelerator for single processes.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        self._check_groups()
        self._accumulate()
        if problems := refusals(self):
            raise ValueError("\n".join(problems))
        if self.use_cpu:
            start_cpu_group(self.ddp_backend, self.ddp_timeout)
        super().__post_init__()

    def _check_numbers(self) -> None:
        for name in _NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in _POSITIVE:
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.max_steps == 0:
            raise ValueError("max_steps is 0; give the number of steps, or leave it out for num_train_epochs")

    def _forward_checkpointing_names(self) -> None:
        """`gradient_checkpointing` is the name users know; newer releases of transformers call it otherwise."""
        for old in ("gradient_checkpointing", "gradient_checkpointing_kwargs"):
            new = old.replace("gradient", "activation")
            if hasattr(self, new) and getattr(self, new) is None and getattr(self, old) is not None:
                setattr(self, new, getattr(self, old))

    def _check_groups(self) -> None:
        size, ranks = self.sequence_parallel_size, launched_ranks()
        if size < 1 or ranks % size:
            raise ValueError(
                f"sequence_parallel_size {size} must divide the number of ranks, {ranks}; start a multiple of {size} "
                "ranks (nproc_per_node), or set it to 1"
            )
        if size > 1 and self.include_num_input_tokens_seen not in (False, "no"):
            raise ValueError(
                "include_num_input_tokens_seen would count the tokens of a sequence-parallel group once per rank; set "
                "it to no: train_log.jsonl has tokens per second, counted once"
            )

    def _accumulate(self) -> None:
        """Gradient accumulation from the global batch size, or the latter from the former. The number of ranks is the
        launcher's: Trainer's own is known only once the process group is up, and DeepSpeed reads the steps before."""
        ranks = launched_ranks() // self.sequence_parallel_size
        per_device, steps = self.per_device_train_batch_size, self.gradient_accumulation_steps
        if self.global_batch_size is None:
            self.global_batch_size = per_device * steps * ranks
            return
        needed = accumulation_steps(self.global_batch_size, per_device, ranks)
        if steps not in (1, needed):
            raise ValueError(
                f"global_batch_size {self.global_batch_size} over {ranks} ranks of {per_device} means "
                f"gradient_accumulation_steps {needed}, not {steps}; give one of the two"
            )
        self.gradient_accumulation_steps = needed

    @property
    def data_parallel_size(self) -> int:
        """Batches that a micro-step reads: one per sequence-parallel group, without them one per rank."""
        return max(1, self.world_size) // self.sequence_parallel_size

    @property
    def data_parallel_rank(self) -> int:
        """Which of these batches this rank reads."""
        return self.process_index // self.sequence_parallel_size

    @property
    def device(self) -> torch.device:
        """As transformers', without the number that Accelerate gives a rank's CPU: `torch.load` knows no "cpu:1"."""
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device

    @property
    def learning_rate_factor(self) -> float:
        """sqrt(global batch / `base_batch_size`), 1.0 without the latter (upstream Cambrian's rule)."""
        return 1.0 if self.base_batch_size is None else math.sqrt(self.global_batch_size / self.base_batch_size)


ARGUMENT_CLASSES: tuple[type[Any], ...] = (
    *(ModelArguments, GazeArguments, DataArguments, TrainingArguments),
    *(LoraArguments, TaskArguments),
)
"""What a configuration file may set, in the order in which `config.load` returns them."""
